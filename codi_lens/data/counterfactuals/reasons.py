"""Why no pair is made."""

from collections.abc import Iterable
from enum import StrEnum


class Reason(StrEnum):
    """Why a problem, or a change of it, is refused; in the order in which this shows."""

    NO_ANNOTATION = "the solution has no annotated step"
    UNREADABLE = "an annotation that is no arithmetic"
    NOT_COMPUTING = "an annotation that does not compute"
    OTHER_ANSWER = "the last result is not the answer"
    UNANNOTATED = "a calculation without annotation"
    CONDITION = "the way to the answer may depend on the numbers"
    UNUSED_NUMBER = "a number of the question that the solution does not use"
    NO_NUMBER = "no number that stands alone"
    TWICE_IN_QUESTION = "the number turns up elsewhere in the question"
    CONSTRAINED = "the question's words depend on the number"
    NO_CHANGE = "no other value to change the number to"
    UNTRACED = "a number of the solution that comes from nowhere"
    AMBIGUOUS = "a number of the solution that may come from two places"
    NEGATIVE = "zero or negative where it was positive"
    NOT_WHOLE = "not whole where it was whole"
    IMPLAUSIBLE = "more than something that was more"
    TOO_MANY_DECIMALS = "more decimals than it had"
    USED_TWICE = "the solution uses the number twice"
    NOT_USED = "the solution does not use the number"
    SAME_ANSWER = "the answer stays the same"
    RESULT_NOT_USED = "a changed result that is not used"
    NOT_SINGLE_TOKENS = "an answer or intermediate of several tokens"
    OTHER_LENGTH = "questions of different length in tokens"
    GRAPH = "the graph does not say what the answer does"


def furthest(reasons: Iterable[Reason]) -> Reason:
    """Of the reasons why several changes are refused, that which shows last."""
    order = list(Reason)
    return max(reasons, key=order.index)
