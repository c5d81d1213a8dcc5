"""Which edges carry the answer? Circuits of the unrolled loop.

Scores every edge between heads, MLPs and thoughts by its gradient, runs circuits of growing size exactly, and prints their
faithfulness. Writes `circuit.json`, with all edges of the circuit that is drawn, and the figures `circuit.html`. Uses the
pairs whose two prompts are equally long.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codi_lens.cli import flags
from codi_lens.cli.asking import chosen_pairs, pairs_name
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens.analysis.circuits import Edges, Faithfulness

TOP = 10


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    add = parser.add_argument
    add("--steps", type=int, default=5, help="points of the integral")
    add("--edges", type=int, default=40, help="of the circuit that is drawn and listed")
    add_model_flags(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Scores, runs, prints and writes."""
    check_unused(arguments.out)
    from codi_lens import plots
    from codi_lens.analysis.circuits import measure_faithfulness, patch_edges, score_edges
    from codi_lens.files import write_json, write_text

    codi = load_model(arguments)

    def length(question: str) -> int:
        return len(codi.tokens.prompt(question))

    given = chosen_pairs(arguments)
    pairs = [p for p in given if length(p.clean.question) == length(p.corrupted.question)]
    if not pairs:
        raise UserError(f"no pair of {pairs_name(arguments)} has two prompts of one length")
    folder = fresh_folder(arguments.out, "circuit")
    edges = score_edges(codi, pairs, steps=arguments.steps, num_latents=arguments.num_latents)
    curve = measure_faithfulness(codi, edges)
    kept = edges.largest(arguments.edges, signed=False)
    exact = patch_edges(codi, edges, kept)
    paths = folder / "circuit.json", folder / "circuit.html"
    record = {"config": flags.as_json(arguments), "model_digest": codi.digest}
    write_json({paths[0]: record | entry(edges, curve, exact)})
    figures = {"circuit": plots.circuit(edges, kept), "faithfulness": plots.faithfulness(curve)}
    write_text(paths[1], plots.page(figures))
    print(table(edges, curve, exact))
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def entry(
    edges: "Edges", curve: "Faithfulness", exact: dict[tuple[int, int, int], float]
) -> dict[str, Any]:
    """The content of `circuit.json`."""
    return {
        "pairs": [pair.pair_id for pair in edges.pairs],
        "edges": [
            {"step": step, "sender": sender, "receiver": receiver, "score": score, "exact": effect}
            for step, sender, receiver, score, effect in listed(edges, exact)
        ],
        "faithfulness": {
            "sizes": list(curve.sizes),
            "edges": curve.edges,
            "signed": list(curve.signed),
            "absolute": list(curve.absolute),
            "cpr": curve.cpr,
            "cmd": curve.cmd,
        },
    }


def listed(
    edges: "Edges", exact: dict[tuple[int, int, int], float]
) -> list[tuple[str, str, str, float, float]]:
    """(step, sender, receiver, score, exact effect), the largest scores first."""
    graph, mean = edges.graph, edges.mean()
    found = [
        (
            str(graph.steps[s]),
            graph.senders[u],
            graph.receivers[r],
            float(mean[s, r, u]),
            effect,
        )
        for (s, r, u), effect in exact.items()
    ]
    return sorted(found, key=lambda edge: -abs(edge[3]))


def table(edges: "Edges", curve: "Faithfulness", exact: dict[tuple[int, int, int], float]) -> str:
    """The largest edges, and the curve."""
    lines = [
        f"{len(edges.pairs)} pairs, {curve.edges} edges",
        "",
        "    step     sender   receiver   score    lost",
    ]
    for step, sender, receiver, score, effect in listed(edges, exact)[:TOP]:
        lines.append(f"{step:>8}{sender:>11}{receiver:>11}{score:>8.3f}{effect:>8.3f}")
    lines += ["", "   edges   f, by score   f, by absolute score"]
    for size, signed, absolute in zip(curve.sizes, curve.signed, curve.absolute, strict=True):
        lines.append(f"{size:>8}{signed:>14.3f}{absolute:>23.3f}")
    lines.append(f"CPR {curve.cpr:.3f} (larger is better), CMD {curve.cmd:.3f} (0 is best)")
    return "\n".join(lines)


main = Program("circuit", __doc__, add_flags, measure)
