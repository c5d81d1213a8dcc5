"""A word-level tokenizer that behaves like LLaMA-3's where experiments depend on it.

* Every number is one token, and the space before a number is a token of its own: "The answer is: 24"
  becomes `The| answer| is|:| |24`. Answer logits are read at that lone space, as with LLaMA-3.
* Any other word carries its leading space, so decoding is plain concatenation and gives the text back.
* A BOS goes in front; there is no pad token. CODI's own ids (pad, bot, eot) are V, V + 1, V + 2 with
  V = `len(tokenizer)`: no token stands for them, only rows of the embedding.
* The vocabulary is closed. A word outside it becomes `<unk>`, so that it can be noticed.

The same words can be cut as GPT-2's tokenizer does: a number is one token with the space before it, and no BOS goes
in front, though there is one, which is eos too.
"""

import functools
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from codi_lens.organisms.toy import task

ANSWER_STEM = "The answer is: "
COCONUT_STEM = "### "
BOS, EOS, UNK = "<s>", "</s>", "<unk>"
GPT2_EOS = "<|endoftext|>"
N_NUMBERS = 100
"""Numbers 0..99 are in the vocabulary: all that the task uses, and some to spare."""

# In order: a number; the space before one; a word or a mark, with the space before it.
_PIECES = r"\d+| (?=\d)| ?[A-Za-z]+| ?<<|>>| ?[^\sA-Za-z\d]"
# In order: a number or a word, with the space before it; a mark; the end of a line.
_GPT2_PIECES = r" ?\d+| ?[A-Za-z]+| ?<<|>>|###| ?[^\sA-Za-z\d]|\n"


def _words() -> Iterator[str]:
    """Every text whose pieces belong to the vocabulary, beside the numbers."""
    yield ANSWER_STEM + "0"
    for kind in task.KINDS:
        operands = task.train_triples(kind)[0]
        for wording in task.wordings(kind):
            problem = task.make_problem(kind, operands, wording)
            yield problem.question
            yield cot_text(problem.cot)
    yield cot_text(("<<1+1=2>>", "<<1-1=0>>", "<<1*1=1>>"))


def cot_text(steps: tuple[str, ...]) -> str:
    """Written-out steps as they stand between a question and its answer."""
    return "".join(f" {step}" for step in steps)


def _split(pieces: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(pieces), behavior="isolated")


@functools.cache
def _words_cut(pieces: str) -> tuple[str, ...]:
    """What the texts of the task are cut into, numbers aside."""
    return words_of(_words(), pieces)


def words_of(texts: Iterable[str], pieces: str = _PIECES) -> tuple[str, ...]:
    """What texts are cut into, numbers aside; sorted."""
    split = _split(pieces)
    found = {piece for text in texts for piece, _ in split.pre_tokenize_str(text)}
    return tuple(sorted(piece for piece in found if not piece.strip(" ").isdigit()))


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the task; the same on every call."""
    return llama_tokenizer(_words_cut(_PIECES), N_NUMBERS)


def llama_tokenizer(words: tuple[str, ...], n_numbers: int) -> PreTrainedTokenizerFast:
    """A tokenizer that behaves like LLaMA-3's, for some words and the numbers below `n_numbers`."""
    numbers = map(str, range(n_numbers))
    backend = _word_level((UNK, BOS, EOS, *numbers, *words), _PIECES)
    vocabulary = backend.get_vocab()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A $B",
        special_tokens=[(BOS, vocabulary[BOS])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


def build_gpt2_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the task as GPT-2's is; the same on every call."""
    joined = (f" {number}" for number in _numbers())
    words = (*_words_cut(_GPT2_PIECES), COCONUT_STEM.strip(), "\n")
    backend = _word_level((UNK, GPT2_EOS, *_numbers(), *joined, *words), _GPT2_PIECES)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=GPT2_EOS,
        eos_token=GPT2_EOS,
        unk_token=UNK,
        clean_up_tokenization_spaces=False,
    )


def _numbers() -> list[str]:
    return [str(number) for number in range(N_NUMBERS)]


def _word_level(tokens: tuple[str, ...], pieces: str) -> Tokenizer:
    """A tokenizer with these tokens, whose decoder puts them together again."""
    vocabulary = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    backend.pre_tokenizer = _split(pieces)
    backend.decoder = decoders.Fuse()
    return backend
