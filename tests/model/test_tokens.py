"""The sequence that a model was trained on, whatever its tokenizer puts around a text or reads in it."""

import pytest
from tokenizers import AddedToken, processors

from codi_lens import HookedCodi, UserError
from codi_lens.model.tokens import CodiTokens
from tests.models.llama3_tokenizer import TEXTS, llama3_tokenizer
from tests.models.tiny import tiny_config, tiny_tokenizer, write_tiny

QUESTION = "one plus two?"
TEMPLATES = ["$A", "<bos> $A", "<bos> $A <eos>", "$A <eos>"]


def tiny_tokens(template, special=(("<bos>", 0), ("<eos>", 1)), tokenizer=None, **settings):
    tokenizer = tokenizer or tiny_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=list(special)
    )
    return CodiTokens(tokenizer, tiny_config(**settings), d_vocab=120, n_ctx=64)


@pytest.mark.parametrize("remove_eos", [True, False])
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_prompt_is_the_trained_one_under_every_template(template, remove_eos):
    words = ["one", " plus", " two", "?"]
    tokens = tiny_tokens(template, remove_eos=remove_eos)
    end = [tokens.ids.bot] if remove_eos else [tokens.ids.eos, tokens.ids.bot]
    prompt = [0, *tokens.tokenizer.convert_tokens_to_ids(words), *end]
    assert tokens.prompt(QUESTION) == prompt
    batch, mask = tokens.prompts([QUESTION, "one?"])
    assert batch[0].tolist() == prompt
    assert batch[1][mask[1].bool()].tolist() == tokens.prompt("one?")


def test_a_bos_that_is_eos_is_put_in_front_only_where_the_template_does():
    """GPT-2's tokenizer has one token for both; a template that puts it behind a text puts none in front."""
    for template, front in (("$A", []), ("$A <eos>", []), ("<eos> $A", [1])):
        tokenizer = tiny_tokenizer()
        tokenizer.bos_token = tokenizer.eos_token
        tokens = tiny_tokens(template, tokenizer=tokenizer)
        words = tokenizer.convert_tokens_to_ids(["one", " plus", " two", "?"])
        assert tokens.question(QUESTION) == front + words


@pytest.mark.parametrize(("wanted", "front"), [(True, [0]), (False, []), (None, [0])])
def test_a_config_can_say_whether_a_bos_stands_in_front(wanted, front):
    for template in TEMPLATES:
        tokens = tiny_tokens(template, bos=wanted)
        assert tokens.question("one?")[: len(front) + 1] == [
            *front,
            *tokens.tokenizer.encode("one", add_special_tokens=False),
        ]
        assert tokens.sequence().startswith("[BOS]") == bool(front)


def test_what_the_template_leaves_is_what_llama3_itself_gives():
    """Template or not, the text is cut alike; LLaMA-3's own template is bos alone."""
    tokenizer = llama3_tokenizer()
    tokens = CodiTokens(tokenizer, tiny_config(), len(tokenizer) + 3, 256)
    for text in TEXTS:
        assert tokens.question(text) == tokenizer(text)["input_ids"]


def test_a_template_of_another_kind_is_refused_with_its_tokens(tmp_path):
    tokenizer = tiny_tokens("<bos> $A").tokenizer
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> is $A is", special_tokens=[("<bos>", 0), ("is", 5)]
    )
    folder = write_tiny(tmp_path, layers=1, tokenizer=tokenizer)
    with pytest.raises(UserError, match=r"the tokenizer puts \[' is', ' is'\] around every text"):
        HookedCodi.from_pretrained(folder)


@pytest.mark.parametrize("typed", ["<bos>", "<eos>", "<pad>", "<reserved>"])
@pytest.mark.parametrize("question", ["{} one?", "one{} two?", "one? {}"])
def test_a_special_token_in_the_question_is_refused_by_name(typed, question):
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.add_tokens([AddedToken("<reserved>", special=True)])
    tokens = tiny_tokens("<bos> $A", tokenizer=tokenizer)
    question = question.format(typed)
    for ask in (tokens.prompt, lambda text: tokens.prompts(["one?", text])):
        with pytest.raises(UserError, match=f"holds the special token '{typed}'") as caught:
            ask(question)
        assert repr(question) in str(caught.value)


@pytest.mark.parametrize(
    ("bot", "eot", "message"),
    [
        ("one", "one", "bot_token and eot_token are both 'one'"),
        ("<eos>", "one", "bot_token is '<eos>', which is the tokenizer's eos token"),
        ("one", "<bos>", "eot_token is '<bos>', which is the tokenizer's bos token"),
    ],
)
def test_the_frame_of_the_thoughts_has_tokens_of_its_own(bot, eot, message):
    with pytest.raises(UserError, match=message):
        tiny_tokens("<bos> $A", bot_token=bot, eot_token=eot)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "the question is empty"),
        (" \n", "the question is empty"),
        ("one moon?", "does not know every word of the question 'one moon\\?'"),
        (None, "the question is None; it must be a text"),
        (7, "the question is 7; it must be a text"),
        ("one \ud800?", "it must be a text, without lone surrogates"),
    ],
)
def test_questions_that_are_none(question, message):
    with pytest.raises(UserError, match=message):
        tiny_tokens("<bos> $A").prompt(question)


@pytest.mark.parametrize(
    ("stem", "message"),
    [
        ("The moon is ", "does not know every word of answer_stem"),
        ("The<eos> ", "holds the special"),
    ],
)
def test_an_answer_stem_that_the_model_cannot_have_been_taught(stem, message):
    with pytest.raises(UserError, match=message):
        tiny_tokens("<bos> $A", answer_stem=stem)
