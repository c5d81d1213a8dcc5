"""Pairs from ProsQA: target and negative target are exchanged in the graph's edges, so that the answer flips.

"Every gerpus is a lempus. … Is Tom a lempus or scrompus?" says a graph and asks which of two words is reached from a
name. The corrupted question has each of the two in the other's place, except where it asks. Both graphs are walked.
"""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from codi_lens.data.changes import Change
from codi_lens.data.counterfactuals.made import Fit, Made, Refused
from codi_lens.data.counterfactuals.reasons import Reason
from codi_lens.data.pairs import Pair, Variant

EDGE = re.compile(r"(?:Every )?(\w+) is an? (\w+)\.")
ASKED = re.compile(r"Is (\w+) an? (\w+) or (?:an? )?(\w+)\?\s*\Z")


def prosqa_pairs(problems: Sequence[Any], *, fit: Fit | None = None) -> Made:
    """Pairs from problems of ProsQA, and why others give none; pair ids are the problems' indices."""
    made = [_pair_of(index, problem, fit) for index, problem in enumerate(problems)]
    return Made(
        tuple(one for one in made if isinstance(one, Pair)),
        tuple(Refused(index, one) for index, one in enumerate(made) if isinstance(one, Reason)),
    )


def _pair_of(index: int, problem: Any, fit: Fit | None) -> Pair | Reason:
    fields = problem if isinstance(problem, Mapping) else {}
    question, answer = str(fields.get("question")), str(fields.get("answer"))
    asked = ASKED.search(question)
    if asked is None or not _says_the_same(question[: asked.start()], fields):
        return Reason.GRAPH
    root, one, other = asked.groups()
    facts = question[: asked.start()]
    exchanged = re.sub(
        rf"\b(?:{one}|{other})\b", lambda word: other if word[0] == one else one, facts
    )
    ways = {word: walk(facts, root, word) for word in (one, other)}
    target = next((word for word in (one, other) if f"{root} is a {word}." == answer), None)
    negative = other if target == one else one
    if target is None or ways[target] is None or ways[negative] is not None:
        return Reason.GRAPH
    now = walk(exchanged, root, negative)
    if now is None or walk(exchanged, root, target) is not None:
        return Reason.GRAPH
    places = tuple(word.start() for word in re.finditer(rf"\b(?:{one}|{other})\b", facts))
    steps = len(now)
    pair = Pair(
        index,
        Variant(question, answer, intermediates=(*(ways[target] or ())[:-1],)),
        Variant(f"{exchanged}{asked[0]}", f"{root} is a {negative}.", intermediates=now[:-1]),
        kind=f"{steps} step{'s' * (steps > 1)}",
        operand=f"enters at step {steps}",
        change=Change(target, negative, places, steps, steps),
    )
    return (fit and fit.misfit(pair)) or pair


def walk(facts: str, root: str, target: str) -> tuple[str, ...] | None:
    """The words on a shortest way from a root to a target, without the root; None if there is no way."""
    edges: dict[str, list[str]] = {}
    for start, end in EDGE.findall(facts):
        edges.setdefault(start, []).append(end)
    ways: dict[str, tuple[str, ...]] = {root: ()}
    waiting = deque([root])
    while waiting:
        here = waiting.popleft()
        for there in edges.get(here, ()):
            if there not in ways:
                ways[there] = (*ways[here], there)
                waiting.append(there)
    return ways.get(target)


def _says_the_same(facts: str, fields: Mapping[str, Any]) -> bool:
    """Whether the facts are all of them edges, and those of the entry's graph where it has one."""
    said = sorted(EDGE.findall(facts))
    if EDGE.sub("", facts).strip():
        return False
    names, edges = fields.get("idx_to_symbol"), fields.get("edges")
    if names is None or edges is None:
        return True
    try:
        return said == sorted((names[start], names[end]) for start, end in edges)
    except (LookupError, TypeError, ValueError):  # whatever a file holds
        return False
