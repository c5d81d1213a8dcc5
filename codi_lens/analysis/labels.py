"""Labels of questions: what a probe is to read, and what classes of questions differ in.

"v1", "v2" … are the results on the way and, behind the last of them, the answer; "answer"; "operand1", "operand2" … are the
numbers in a question, in the order in which the file of pairs has them.
"""

import re
from collections.abc import Sequence

from codi_lens.data.answers import Answer
from codi_lens.data.pairs import SIDES, Pair, Variant, side_of
from codi_lens.errors import UserError

NAME = re.compile(r"(v|operand)([1-9]\d*)")


def variants_of(pairs: Sequence[Pair]) -> list[Variant]:
    """Both sides of every pair, the clean one first."""
    return [side_of(pair, side) for pair in pairs for side in SIDES]


def labels_of(asked: Sequence[Variant], name: str) -> list[Answer]:
    """The label of this name of every question.

    Raises:
        UserError: no such label, or a question that does not know it; says what is known.
    """
    if name == "answer":
        return [one.answer for one in asked]
    if (found := NAME.fullmatch(name)) is None:
        raise UserError(f"no label {name!r}; give answer, a result such as v1, or operand1")
    kind, index = found[1], int(found[2]) - 1
    numbers = [(*one.intermediates, one.answer) if kind == "v" else one.operands for one in asked]
    for one, own in zip(asked, numbers, strict=True):
        if index >= len(own):
            what = "results" if kind == "v" else "operands"
            raise UserError(
                f"the question {one.question!r} knows {len(own)} {what}, so no {name}; give another label, or data "
                "with operands and intermediates"
            )
    return [own[index] for own in numbers]
