"""Solutions with calculator annotations, in GSM8K's and in GSM8K-Aug's spelling, read and checked."""

import re
from dataclasses import dataclass
from fractions import Fraction

from codi_lens.data.counterfactuals.arithmetic import (
    Expression,
    Operation,
    literals,
    parse,
    values,
)
from codi_lens.data.counterfactuals.reasons import Reason

ANNOTATION = re.compile(r"<<([^<>]*)>>")
EQUATION_AFTER = re.compile(r"[=≈]\s*[^\w\s=<(]*\s*\Z")
"""An annotation stands behind the equals sign, with a unit such as $ between."""
CALCULATION = re.compile(r"[=≈]|[\d%)]\s*(?:[*x×÷/+]|[-–−]\s)\s*[$(]?\.?\d")
"""An equals sign, or two numbers with an operator between."""
OPERATOR = re.compile(r"[-+*/]")
FRACTION = re.compile(r"\b\d+/\d+")


@dataclass(frozen=True)
class Step:
    """One annotation: an expression and what it comes to."""

    expression: Expression
    result: Fraction

    @property
    def literals(self) -> tuple[Fraction, ...]:
        """Its numbers, from the left."""
        return literals(self.expression)


def read_solution(text: str, question: str) -> tuple[Step, ...] | Reason:
    """The annotated steps of a solution, "####" and the answer at its end, or why it cannot be followed.

    The last step's result is the answer.
    """
    body, _, end = text.rpartition("####")
    steps = []
    for annotation in ANNOTATION.findall(body):
        step = _step(annotation)
        if isinstance(step, Reason):
            return step
        # What computes nothing, such as <<6=6>>, is no step: its number must come from elsewhere.
        steps += [step] if isinstance(step.expression, Operation) else []
    if not steps:
        return Reason.NO_ANNOTATION
    try:
        answer = Fraction(end.replace(",", "").strip().lstrip("$"))
    except ValueError:
        return Reason.OTHER_ANSWER
    if steps[-1].result != answer:
        return Reason.OTHER_ANSWER
    prose = _prose(body)
    # A fraction that the question has is a number, and no calculation.
    for fraction in FRACTION.findall(question):
        prose = re.sub(rf"(?<![\d./*+x×-]){fraction}(?![\d*/]| [*x/+])", "a part", prose)
    if CALCULATION.search(prose):
        return Reason.UNANNOTATED
    return tuple(steps)


def _step(annotation: str) -> Step | Reason:
    calculation, equals, result = annotation.partition("=")
    try:
        expression, stated = parse(calculation), Fraction(result.strip())
        reached = values(expression, literals(expression))[-1]
    except (ValueError, ZeroDivisionError):
        return Reason.UNREADABLE
    return Step(expression, stated) if equals and reached == stated else Reason.NOT_COMPUTING


def _prose(body: str) -> str:
    """The text without annotations and the calculations that they annotate.

    "She has 3 * 5 = $<<3*5=15>>15 left" leaves "She has 15 left".
    """
    parts, at = [], 0
    for found in ANNOTATION.finditer(body):
        before = body[at : found.start()]
        equation = EQUATION_AFTER.search(before)
        if equation and OPERATOR.search(found[1]):
            before = _without_calculation(before[: equation.start()], found[1])
        parts.append(before)
        at = found.end()
    return "".join([*parts, body[at:]])


def _without_calculation(text: str, annotation: str) -> str:
    """The text without the calculation at its end: as many of its last numbers as the annotation has."""
    count = len(re.findall(r"\d+\.?\d*|\.\d+", annotation.partition("=")[0]))
    numbers = list(re.finditer(r"\d[\d,]*\.?\d*|\.\d+", text))
    return text[: numbers[-count].start()] if len(numbers) >= count else text
