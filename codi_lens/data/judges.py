"""Judges: when generated text gives the right answer.

The data set or the call names one, else the model's config does (`CodiConfig.judge`). Where neither does, numbers
are judged as the CODI evaluation does it, and other answers as normalised text.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal

from codi_lens.data.answers import Answer, is_number, last_number, spell
from codi_lens.errors import UserError, one_of


@dataclass(frozen=True)
class Judge:
    """A way of judging, and whether it reads only what is behind the answer's stem, if that is there."""

    gives: Callable[[str, Answer], bool]
    """Takes generated text and the right answer."""
    behind_stem: bool = True


JUDGES: dict[str, Judge] = {}


def register_judge(
    name: str, gives: Callable[[str, Answer], bool], *, behind_stem: bool = True
) -> Judge:
    """Makes a judge known by its name; returns it."""
    JUDGES[name] = Judge(gives, behind_stem)
    return JUDGES[name]


def is_right(text: str, answer: Answer, *, judge: str | None = None, stem: str = "") -> bool:
    """Whether generated text gives an answer.

    Args:
        text: with the stem in front, or without.
        answer: the right one.
        judge: one of `JUDGES`; None: "number" for an answer that is one, "text" for others.
        stem: what the model says before its answers.

    Raises:
        UserError: no such judge, or one that cannot judge this answer.
    """
    name = judge or ("number" if is_number(answer) else "text")
    chosen = JUDGES[one_of(name, JUDGES, "judge")]
    return chosen.gives(behind(text, stem) if chosen.behind_stem else text, answer)


def behind(text: str, stem: str) -> str:
    """What follows the stem in generated text; all of it where the stem is not there."""
    for front in (stem, stem.rstrip()):
        if text.startswith(front):
            return text[len(front) :]
    return text


def gives_number(text: str, answer: Answer) -> bool:
    """Whether the last number in the text is the answer; compared as exact decimals, not as floats."""
    if not is_number(answer):
        raise UserError(
            f'the judge "number" cannot judge the answer {answer!r}; use "text" or "exact"'
        )
    found = last_number(text)
    return found is not None and Decimal(found) == Decimal(spell(answer))


def gives_text(text: str, answer: Answer) -> bool:
    """Whether the text is the answer but for case, white space, and a full stop at the end."""
    return normalised(text) == normalised(spell(answer))


def gives_exactly(text: str, answer: Answer) -> bool:
    """Whether the text is the answer's spelling, to the letter."""
    return text == spell(answer)


def normalised(text: str) -> str:
    """Lower case, single blanks, no full stop at the end."""
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


# As the official evaluation does it, the stem is read like all the rest.
register_judge("number", gives_number, behind_stem=False)
register_judge("text", gives_text)
register_judge("exact", gives_exactly)
