"""Does the model need its thoughts? Accuracy with fewer, with none, and with others' thoughts.

Asks every question of the pairs under every condition, prints a table, and writes `necessity.json` and the bar
figure `necessity.html`.
"""

import argparse
from typing import Any

from codi_lens.cli import flags
from codi_lens.cli.asking import chosen_pairs
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program

NECESSITY = "necessity.json"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    add_model_flags(parser)
    parser.add_argument("--batch", type=int, default=64, help="questions side by side")


def measure(arguments: argparse.Namespace) -> None:
    """Measures what the arguments ask for, writes it and prints the table."""
    check_unused(arguments.out)
    # Heavy imports wait until the arguments are known to be right.
    import torch

    from codi_lens import plots
    from codi_lens.analysis.latent_ablation import measure_necessity
    from codi_lens.data.pairs import SIDES
    from codi_lens.files import write_json, write_text

    pairs = chosen_pairs(arguments)
    codi = load_model(arguments)
    folder = fresh_folder(arguments.out, "necessity")
    variants = [variant for pair in pairs for variant in (pair.clean, pair.corrupted)]
    kinds = [pair.kind for pair in pairs for _ in range(2)]
    necessity = measure_necessity(
        codi,
        [variant.question for variant in variants],
        [variant.answer for variant in variants],
        num_latents=arguments.num_latents,
        batch=arguments.batch,
        seed=arguments.seed,
    )
    record = {
        "config": flags.as_json(arguments),
        "model_digest": codi.digest,
        "threads": torch.get_num_threads(),
        "questions": [{"pair_id": pair.pair_id, "side": side} for pair in pairs for side in SIDES],
    }
    record |= entry(necessity, kinds)
    paths = folder / NECESSITY, folder / "necessity.html"
    write_json({paths[0]: record})
    write_text(paths[1], plots.page({"necessity": plots.necessity_bars(necessity)}))
    print(table(record))
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def entry(necessity: Any, kinds: list[str | None]) -> dict[str, Any]:
    """The content of `necessity.json`."""
    n = len(necessity.questions)
    conditions = []
    for name, condition in necessity.conditions.items():
        right = sum(condition.correct)
        row = {"condition": name, "accuracy": right / n, "right": right, "n": n}
        row["interval_95"] = list(condition.interval)
        row["donor_rate"] = None if condition.donor is None else sum(condition.donor) / n
        # The questions, by number, whose thoughts were lent.
        row["donors"] = None if condition.donor is None else list(necessity.donors)
        row["answers"] = list(condition.texts)
        conditions.append(row)
    right_with_all = necessity.with_latents(necessity.num_latents).correct
    by_kind = {}
    for kind in sorted({kind for kind in kinds if kind is not None}):
        own = [right for right, k in zip(right_with_all, kinds, strict=True) if k == kind]
        by_kind[kind] = {"accuracy": sum(own) / len(own), "n": len(own)}
    return {"num_latents": necessity.num_latents, "conditions": conditions, "by_kind": by_kind}


def table(record: dict[str, Any]) -> str:
    """The record as two small tables."""
    lines = ["condition                   right     95% interval   donor's answer"]
    for row in record["conditions"]:
        low, high = row["interval_95"]
        donor = "" if row["donor_rate"] is None else f"{row['donor_rate']:>14.1%}"
        lines.append(
            f"{row['condition']:<26}{row['accuracy']:>7.1%}   {low:>6.1%} – {high:<6.1%}{donor}"
        )
    lines.append(f"n = {record['conditions'][0]['n']} questions")
    if record["by_kind"]:
        lines += ["", f"kind        right with {record['num_latents']} latents"]
        lines += [f"{kind:<12}{row['accuracy']:>6.1%}" for kind, row in record["by_kind"].items()]
    return "\n".join(lines)


main = Program("necessity", __doc__, add_flags, measure)
