"""How fast a position-wise sweep is, against one run per cell and against the arithmetic it needs.

    python -m experiments.benchmark --shape medium

measures, in one process and taking turns, medians of repeated runs of

  a   one full run per cell in plain transformers: forward hooks, its key/value cache, the prompt every time
  a′  the same with the prompt's keys and values kept
  b   one full run per cell with TransformerLens' hooks (`HookedCodi.run_with_hooks`)
  c   this package: all cells of all pairs, metrics included
  d   floor: plain transformers (sdpa) over as many new tokens as c, in prompt-sized sequences, without
      hooks, cache or projection, and the unembedding of as many positions as c reads
  d′  the same in c's own batch shapes

a, a′ and b are timed on a random sample of cells and scaled up. What favours them: they get the
activations to patch in for nothing, force the clean answer only, and compute no metric. Before anything is
timed, the logits of a, b and c are compared. `--growth` instead shows how the cost of c grows, `--evaluate`
how fast an evaluation is beside one question at a time, and `--attribution` how fast gradients of all places are
beside plain backward passes.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from codi_lens.cli.flags import IMAGE_FORMATS, add_seed, path
from codi_lens.cli.folders import fresh_folder
from codi_lens.cli.model_flags import add_device, add_dtype
from codi_lens.cli.program import Program

SHAPES = ("toy", "medium", "gpt2", "llama-1b")
MIB = 2**20


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("--shape", default="toy", choices=SHAPES, help="of the model; random weights but for toy")
    add("--limit", type=int, help="pairs, or questions (default: 60 and 200 on toy, else 1)")
    add("--repeats", type=int, default=5, help="of what is timed")
    add("--sample", type=int, default=6, help="cells that a, a′ and b are timed on")
    add(
        "--site",
        default="resid_post",
        choices=("resid_post", "z"),
        help="what is patched; z: heads",
    )
    add_device(parser)
    add_dtype(parser)
    add("--batch-rows", type=int, help="as in the sweeps (default: as fit in memory)")
    add("--growth", action="store_true", help="how c grows, on small models")
    add("--evaluate", action="store_true", help="an evaluation of toy, and one question at a time")
    add("--attribution", action="store_true", help="attribution, and plain backward passes")
    add("--format", choices=IMAGE_FORMATS, help="also a picture of growth (default: none)")
    add("--out", type=path, help="folder for the JSON (default: only print)")
    add_seed(parser)


def benchmark(arguments: argparse.Namespace) -> None:
    """Measures and reports what the arguments ask for."""
    from codi_lens.memory import keep_freed_memory

    keep_freed_memory()  # as the programs do, for all runs alike
    folder = None if arguments.out is None else fresh_folder(arguments.out, "benchmark")
    if arguments.growth:
        growth(arguments, folder)
        return
    if arguments.evaluate:
        evaluation(arguments, folder)
        return
    if arguments.attribution:
        attribution(arguments, folder)
        return
    from experiments.benchmarks.runs import compare

    found = compare(arguments)
    print(table(found))
    if folder is not None:
        write(folder / "benchmark.json", found)


def growth(arguments: argparse.Namespace, folder: Path | None) -> None:
    """Measures how the cost grows; writes figures and a page with --out, a picture with --format."""
    from codi_lens import plots
    from codi_lens.files import write_text
    from experiments.benchmarks.growth import figure, grow

    found = grow(arguments.repeats)
    print(growth_table(found))
    if folder is not None:
        write(folder / "growth.json", found)
        drawn = {"growth": figure(found)}
        write_text(folder / "growth.html", plots.page(drawn))
        if arguments.format:
            plots.write_images(folder, drawn, arguments.format)


def evaluation(arguments: argparse.Namespace, folder: Path | None) -> None:
    """Measures how fast an evaluation is; writes the figures with --out."""
    from experiments.benchmarks import evaluation as timed

    found = timed.compare_evaluations(
        arguments.limit, arguments.repeats, arguments.device, arguments.dtype
    )
    print(timed.table(found))
    if folder is not None:
        write(folder / "evaluation.json", found)


def attribution(arguments: argparse.Namespace, folder: Path | None) -> None:
    """Measures how fast attribution is; writes the figures with --out."""
    from experiments.benchmarks import attribution as timed

    found = timed.compare_attribution(
        arguments.shape, arguments.repeats, arguments.device, arguments.dtype
    )
    print(timed.table(found))
    if folder is not None:
        write(folder / "attribution.json", found)


def write(path: Path, found: dict[str, Any]) -> None:
    """Writes the figures and says where."""
    from codi_lens.files import write_json

    write_json({path: found})
    print(f"\nwritten:\n  {path}")


def table(found: dict[str, Any]) -> str:
    """The figures in words."""
    lines = [
        f"{found['shape']}: {found['pairs']} pair(s) × {found['cells_per_pair']} cells of {found['site']}, "
        f"{found['dtype']} on {found['device']}, {found['threads']} threads; "
        f"medians of {found['repeats']}, in seconds",
        f"a, b and c agree within {found['disagreement']:.1e} of the logits' spread",
        "",
    ]
    for name, times in found["seconds"].items():
        scaled = (
            f"  scaled up from {found['sampled_cells']} cells" if name in ("a", "a′", "b") else ""
        )
        lines.append(
            f"  {name:<3} {times['median']:>9.3f}   {times['least']:.3f} – {times['most']:.3f}{scaled}"
        )
    lines.append("")
    lines += [f"  {name:<5} {value:>7.2f}" for name, value in found["ratios"].items()]
    lines.append("")
    tokens = found["tokens"]
    lines.append(
        f"  c feeds {tokens['fed']:,} new tokens in {tokens['passes']} passes and unembeds "
        f"{tokens['unembedded']:,} positions"
    )
    lines.append(
        f"  peak memory of c: {found['peak_bytes'] / MIB:,.0f} MiB over the weights' "
        f"{found['weight_bytes'] / MIB:,.0f} MiB"
    )
    return "\n".join(lines)


def growth_table(found: dict[str, Any]) -> str:
    """Seconds of a, c and d over each axis, one line per value."""
    lines = [f"base: {found['base']}; medians of {found['repeats']}", ""]
    for axis, points in found["axes"].items():
        for point in points:
            a, c, d = (point["seconds"][name]["median"] for name in "acd")
            lines.append(
                f"  {axis:<8} {point['value']:>4}  a {a:>8.3f} s  c {c:>7.3f} s  d {d:>7.3f} s"
                f"  a/c {a / c:>6.1f}  c/d {c / d:>5.2f}  {1e6 * c / point['tokens']:>6.1f} µs a token"
            )
    return "\n".join(lines)


main = Program("benchmark", __doc__.splitlines()[0], add_flags, benchmark)

if __name__ == "__main__":
    sys.exit(main())
