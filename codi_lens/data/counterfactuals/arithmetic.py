"""Expressions of annotations, such as 4*(60-15)/5, in exact arithmetic."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

TOKEN = re.compile(r"\s*(\d+\.?\d*|\.\d+|[-+*/()])")
TIGHTER = {"+": 1, "-": 1, "*": 2, "/": 2}
"""Operator -> how tightly it binds."""


@dataclass(frozen=True)
class Literal:
    """A number as an expression has it; `index` counts them from the left."""

    index: int
    value: Fraction


@dataclass(frozen=True)
class Operation:
    """Two expressions and what is done with them."""

    operator: str
    left: "Expression"
    right: "Expression"


Expression: TypeAlias = Literal | Operation


def parse(text: str) -> Expression:
    """The expression that a text says: decimal numbers, + - * / and brackets.

    Raises:
        ValueError: anything else.
    """
    tokens = _tokens(text)
    tree, rest = _parse(tokens, 0, iter(range(len(tokens))))
    if rest:
        raise ValueError(f"{text!r} does not end where its expression does")
    return tree


def literals(tree: Expression) -> tuple[Fraction, ...]:
    """The numbers of an expression, from the left."""
    if isinstance(tree, Literal):
        return (tree.value,)
    return literals(tree.left) + literals(tree.right)


def values(tree: Expression, given: Sequence[Fraction]) -> tuple[Fraction, ...]:
    """What every operation comes to, the whole expression last, with these numbers for its literals.

    Raises:
        ZeroDivisionError: a division by zero.
    """
    return tuple(_values(tree, given))


def _values(tree: Expression, given: Sequence[Fraction]) -> Iterator[Fraction]:
    if isinstance(tree, Literal):
        yield given[tree.index]
        return
    left, right = tuple(_values(tree.left, given)), tuple(_values(tree.right, given))
    # A literal is no step on the way.
    yield from left if isinstance(tree.left, Operation) else ()
    yield from right if isinstance(tree.right, Operation) else ()
    one, other = left[-1], right[-1]
    match tree.operator:
        case "+":
            yield one + other
        case "-":
            yield one - other
        case "*":
            yield one * other
        case _:
            yield one / other


def _tokens(text: str) -> list[str]:
    found, at = [], 0
    while at < len(text.rstrip()):
        token = TOKEN.match(text, at)
        if token is None:
            raise ValueError(f"{text!r} is no expression from {text[at:]!r} on")
        found.append(token[1])
        at = token.end()
    return found


def _parse(tokens: list[str], least: int, index: Iterator[int]) -> tuple[Expression, list[str]]:
    """An expression whose operators bind more tightly than `least`, and the tokens behind it."""
    match tokens:
        case ["(", *rest]:
            tree, rest = _parse(rest, 0, index)
            if rest[:1] != [")"]:
                raise ValueError("a bracket that is not closed")
            rest = rest[1:]
        case [token, *rest] if token not in TIGHTER and token != ")":
            tree = Literal(next(index), Fraction(token.rstrip(".")))
        case _:
            raise ValueError(f"no number before {' '.join(tokens) or 'the end'}")
    while rest and TIGHTER.get(rest[0], 0) > least:
        operator, *rest = rest
        right, rest = _parse(rest, TIGHTER[operator], index)
        tree = Operation(operator, tree, right)
    return tree, rest
