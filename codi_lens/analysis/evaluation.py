"""How often is a model right? Greedy accuracy on a data set, by number of thoughts and without the wrapper."""

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from codi_lens.analysis.asking import Condition, ask, latents_name, right
from codi_lens.checkpoint.known import PublishedScore
from codi_lens.data.datasets import Dataset, as_tested
from codi_lens.data.judges import JUDGES
from codi_lens.errors import UserError, one_of, whole_number
from codi_lens.memory import fitting_rows, in_batches
from codi_lens.model.hooked_codi import DECODED, HookedCodi

BATCH = 128
"""Questions side by side."""


@dataclass(frozen=True)
class Exam:
    """What is asked, and how."""

    dataset: Dataset
    num_latents: int
    batch: int
    prepare: bool
    judge: str | None
    max_new_tokens: int

    @cached_property
    def questions(self) -> tuple[str, ...]:
        """The questions as they are asked."""
        asked = self.dataset.questions
        return tuple(map(as_tested, asked)) if self.prepare else asked


@dataclass(frozen=True)
class Answered:
    """Answers to some of the questions, of which `indices` are the places in the data set; else as `Asked`."""

    indices: tuple[int, ...]
    texts: dict[str, list[str]]
    cut: dict[str, list[bool]]


@dataclass(frozen=True)
class Evaluation:
    """The questions of a data set under every condition, from N thoughts down to none and without the wrapper."""

    exam: Exam
    conditions: dict[str, Condition]
    cut: dict[str, tuple[bool, ...]]
    """Of each answer, whether it has as many tokens as were decoded at most, so that it may go on."""

    def with_latents(self, count: int | None = None) -> Condition:
        """The condition with the model's own first `count` thoughts; with all that were asked for if None."""
        return self.conditions[latents_name(self.exam.num_latents if count is None else count)]


def evaluate(
    codi: HookedCodi,
    dataset: Dataset,
    *,
    num_latents: int | None = None,
    batch: int = BATCH,
    prepare: bool = True,
    judge: str | None = None,
    max_new_tokens: int = DECODED,
) -> Evaluation:
    """Asks all questions with N, … 0 thoughts and without the wrapper, many side by side.

    Args:
        dataset: as `data.datasets.load_dataset` gives it.
        num_latents: N; the model's own if None.
        batch: questions side by side, left-padded; fewer where memory is scarce.
        prepare: whether questions are prepared as CODI's test script does it (`data.datasets.as_tested`).
        judge: how answers are judged right, one of `data.judges.JUDGES`; None: as the data set says, else
            the model's config, else as each answer's kind asks.
        max_new_tokens: of an answer.

    Raises:
        UserError: a question that does not fit, an answer that cannot be judged, or out of memory with one question.
    """
    exam = make_exam(
        codi,
        dataset,
        num_latents=num_latents,
        batch=batch,
        prepare=prepare,
        judge=judge,
        max_new_tokens=max_new_tokens,
    )
    return evaluated(codi, exam, list(answered(codi, exam)))


def make_exam(
    codi: HookedCodi,
    dataset: Dataset,
    *,
    num_latents: int | None = None,
    batch: int = BATCH,
    prepare: bool = True,
    judge: str | None = None,
    max_new_tokens: int = DECODED,
) -> Exam:
    """What `evaluate` asks, checked; arguments as there."""
    exam = Exam(
        dataset,
        codi.num_latents(num_latents),
        whole_number(batch, "batch", at_least=1),
        prepare,
        judge or dataset.judge,
        whole_number(max_new_tokens, "max_new_tokens", at_least=1),
    )
    if exam.judge is not None:
        one_of(exam.judge, JUDGES, "judge")
    behind = exam.num_latents + len(codi.tokens.end()) + exam.max_new_tokens
    asked = zip(dataset.ids, exam.questions, dataset.answers, strict=True)
    for name, question, answer in asked:
        try:
            codi.tokens.is_right("", answer, exam.judge)
            codi.tokens.check_length(len(codi.tokens.prompt(question)) + behind)
        except UserError as error:
            raise UserError(f"question {name} of {dataset.name}: {error}") from error
    return exam


def answered(
    codi: HookedCodi,
    exam: Exam,
    done: Container[int] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Answered]:
    """Answers batch by batch, the longest questions first: they are the ones that memory may not hold.

    Args:
        done: places of questions that are not needed again.
        stopped: asked before each batch; if true, no more are run.
    """
    lengths = [len(codi.tokens.prompt(question)) for question in exam.questions]
    left = [i for i in range(len(lengths)) if i not in done]
    left.sort(key=lambda i: (-lengths[i], i))

    def run(batch: Sequence[int]) -> list[Answered]:
        asked = ask(codi, [exam.questions[i] for i in batch], exam.num_latents, exam.max_new_tokens)
        return [Answered(tuple(batch), asked.texts, asked.cut)]

    size = exam.batch
    if left:
        # Memory is largest in the pass over the prompts: each position attends to all before it.
        behind = exam.num_latents + len(codi.tokens.end()) + exam.max_new_tokens
        longest = lengths[left[0]]
        shape = {"prompt": 0, "latents": behind, "answer": longest}
        size = min(size, fitting_rows(codi.model.cfg, codi.loop.device, **shape))
    less = "fewer --num-latents, --max-new-tokens or --dtype bfloat16"
    yield from in_batches(left, size, run, stopped=stopped, unit="question", less=less)


def evaluated(codi: HookedCodi, exam: Exam, parts: Sequence[Answered]) -> Evaluation:
    """The parts, which hold all questions once, put together and judged."""
    places = [i for part in parts for i in part.indices]
    order = sorted(range(len(places)), key=places.__getitem__)
    conditions, cut = {}, {}
    for name in parts[0].texts:
        texts = [text for part in parts for text in part.texts[name]]
        texts = [texts[i] for i in order]
        ends = [at_end for part in parts for at_end in part.cut[name]]
        cut[name] = tuple(ends[i] for i in order)
        given = right(codi, texts, exam.dataset.answers, exam.judge)
        conditions[name] = Condition(name, tuple(texts), given)
    return Evaluation(exam, conditions, cut)


def verdict(condition: Condition, published: PublishedScore) -> str:
    """What was measured beside what was published, in words."""
    (low, high), there = condition.interval, published.accuracy
    slack = 1e-9  # of all right, the interval's end is 1 but for rounding
    where = "below" if there > high + slack else "above" if there < low - slack else "agrees with"
    return (
        f"{where} the published {there:.1%} ({published.source}): {condition.accuracy:.1%} "
        f"(n = {len(condition.correct)}, 95% interval {low:.1%} – {high:.1%})"
    )
