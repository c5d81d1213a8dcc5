"""A small tokenizer that cuts text as LLaMA-3's does, trained on the spot.

Byte-level BPE behind LLaMA-3's pre-tokenisation: digits in groups of up to three from the left,
a blank before digits on its own, a blank before a word or a sign joined to it. All strings of one
to three digits are single tokens, as in the real vocabulary, and so are the words given.
"""

from functools import cache

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEXTS = (
    "The answer is: ",
    "A team starts with 3 members. They recruit 5 new members. Then each current member recruits "
    "2 additional people. How many people are there now?",
    "The answer is: -1 . , ? ! ;",
)


@cache
def llama3_tokenizer(texts: tuple[str, ...] = TEXTS) -> PreTrainedTokenizerFast:
    """Train the tokenizer; BOS is put in front when special tokens are asked for."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    digits = [f"{number:0{width}d}" for width in (1, 2, 3) for number in range(10**width)]
    trainer = trainers.BpeTrainer(
        vocab_size=20_000,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*digits, *texts], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)
