"""What does each component add to the answer's logits? Direct logit attribution.

Splits the logit difference of clean and corrupted answer, where the answers part, into what embedding, heads, MLPs and
biases add to it directly, and each head's part by the step that it attends to. Writes `logit_attribution.json` and the
figure `logit_attribution.html`.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codi_lens.choices import ANSWER_STARTS
from codi_lens.cli import flags
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.inputs import patchable_pairs
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program

if TYPE_CHECKING:
    from codi_lens import Pair
    from codi_lens.analysis.logit_attribution import LogitAttribution

TOP = 8


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    flags.add_side(parser)
    add = parser.add_argument
    start = "where the answer is read: behind the forced stem, or right after the thoughts"
    add("--answer-start", default="stem", choices=ANSWER_STARTS, help=start)
    add_model_flags(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Splits, prints and writes."""
    check_unused(arguments.out)
    from codi_lens import attribute_logits, plots
    from codi_lens.files import write_json, write_text

    pairs = patchable_pairs(arguments)
    codi = load_model(arguments)
    found = attribute_logits(
        codi,
        pairs,
        side=arguments.side,
        answer_start=arguments.answer_start,
        num_latents=arguments.num_latents,
    )
    folder = fresh_folder(arguments.out, "logit_attribution")
    paths = folder / "logit_attribution.json", folder / "logit_attribution.html"
    record = {"config": flags.as_json(arguments), "model_digest": codi.digest} | entry(found, pairs)
    write_json({paths[0]: record})
    write_text(paths[1], plots.page({"logit-attribution": plots.logit_attribution(found)}))
    print(table(found))
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def entry(found: "LogitAttribution", pairs: list["Pair"]) -> dict[str, Any]:
    """The content of `logit_attribution.json`: means, and the parts of every pair."""
    return {
        "components": list(found.components),
        "heads": list(found.heads),
        "groups": list(found.groups),
        "mean": found.mean().tolist(),
        "mean_by_source": found.mean_by_source().tolist(),
        "mean_logit_diff": float(found.totals.mean()),
        "error": found.error,
        "pairs": [
            {"pair_id": pair.pair_id, "logit_diff": total, "parts": parts}
            for pair, total, parts in zip(
                pairs, found.totals.tolist(), found.parts.tolist(), strict=True
            )
        ],
    }


def table(found: "LogitAttribution") -> str:
    """The largest parts, the largest of heads by what they attend to, and how well the parts sum up."""
    sources = {
        f"{head} from {group}": value
        for head, row in zip(found.heads, found.mean_by_source().tolist(), strict=True)
        for group, value in zip(found.groups, row, strict=True)
    }
    parts = dict(zip(found.components, found.mean().tolist(), strict=True))
    total = float(found.totals.mean())
    lines = [f"{len(found.examples)} pairs; mean {found.unit} {total:.3f} logits, of which"]
    for title, values in (("component", parts), ("head, by what it attends to", sources)):
        largest = sorted(values.items(), key=lambda item: -abs(item[1]))[:TOP]
        lines += ["", f"  {title:<28} logits"]
        lines += [f"  {name:<28}{value:>7.3f}" for name, value in largest]
    return "\n".join([*lines, "", f"the parts sum to it within {found.error:.1e} on every pair"])


main = Program("logit_attribution", __doc__, add_flags, measure)
