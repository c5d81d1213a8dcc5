"""How fast an evaluation is beside one question at a time, with the same answers."""

from collections.abc import Callable
from typing import Any

from codi_lens import HookedCodi
from codi_lens.analysis.evaluation import Evaluation, evaluate
from codi_lens.data.datasets import Dataset, load_dataset
from codi_lens.errors import UserError
from codi_lens.model.devices import pick_dtype
from codi_lens.threads import choose_threads
from experiments.benchmarks.timing import medians

LIMIT = 200


def compare_evaluations(limit: int | None, repeats: int, device: str, dtype: str) -> dict[str, Any]:
    """Seconds of the embedded model's held-out questions three ways, taking turns.

    The first is `evaluate`; the second the same with one question in a batch; the third is what one writes
    first, a call of `generate` for each question and number of thoughts, and one without the wrapper.
    """
    codi = HookedCodi.from_pretrained("toy", device=device, dtype=pick_dtype(dtype))
    threads = choose_threads(codi.model.cfg.d_model, None)
    dataset = load_dataset("toy-heldout", limit or LIMIT)
    ways: dict[str, Callable[[], list[str]]] = {
        "evaluate": lambda: _texts(evaluate(codi, dataset)),
        "batches of one": lambda: _texts(evaluate(codi, dataset, batch=1)),
        "one call each": lambda: _by_hand(codi, dataset),
    }
    texts = {name: way() for name, way in ways.items()}
    if any(given != texts["evaluate"] for given in texts.values()):
        raise UserError("the three ways give different answers; a larger --dtype rounds less")
    seconds = medians(ways, repeats)
    return {
        "questions": len(dataset),
        "conditions": codi.config.num_latents + 2,
        "dtype": dtype,
        "device": device,
        "threads": threads,
        "repeats": repeats,
        "seconds": seconds,
        "ratios": {name: seconds[name] / seconds["evaluate"] for name in list(ways)[1:]},
    }


def _texts(evaluation: Evaluation) -> list[str]:
    return [text for condition in evaluation.conditions.values() for text in condition.texts]


def _by_hand(codi: HookedCodi, dataset: Dataset) -> list[str]:
    counts = range(codi.config.num_latents, -1, -1)
    texts = [codi.generate(q, num_latents=count) for count in counts for q in dataset.questions]
    bare = [codi.decode_without_wrapper([question]) for question in dataset.questions]
    return texts + [codi.tokens.text(ids) for (ids,) in bare]


def table(found: dict[str, Any]) -> str:
    """The figures in words."""
    lines = [
        f"{found['questions']} questions × {found['conditions']} conditions, {found['dtype']} on "
        f"{found['device']}, {found['threads']} threads; medians of {found['repeats']}, in seconds",
        "",
    ]
    for name, seconds in found["seconds"].items():
        ratio = found["ratios"].get(name)
        times = "" if ratio is None else f"   {ratio:>6.1f} × evaluate"
        lines.append(f"  {name:<15}{seconds:>9.3f}{times}")
    return "\n".join(lines)
