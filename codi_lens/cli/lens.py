"""What could be read off every layer and step? The logit lens or the tuned lens, with a control.

Reads the known results of every question, those on the way and the answer, off the layers at every step, and off another
question's run at the same place. Prints where each is most readable, and writes `lens.json` and the figures `lens.html`.
A tuned lens is trained, and saved beside them, unless `--lens` names one. Pairs without results on the way give the answer's.
"""

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from codi_lens.cli import flags
from codi_lens.cli.asking import chosen_pairs
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program
from codi_lens.data.pairs import SIDES, side_of
from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens import HookedCodi, Pair
    from codi_lens.analysis.lenses import HeldOut, LensMap, TunedLens

SAVED = "lens"
"""The folder of a trained lens, in that of the results."""
ORGANISM_PROBLEMS = 400
"""Of an organism's task, to train on."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    add = parser.add_argument
    which = (
        "the final norm and the unembedding; or behind an affine map that is trained for each layer"
    )
    add("--kind", default="logit", choices=("logit", "tuned"), help=which)
    add("--lens", type=flags.path, metavar="FOLDER", help="a tuned lens (default: one is trained)")
    taught = "questions that a tuned lens is trained on, but for those of the pairs: a data set as in evaluate"
    add("--data", help=f"{taught} (default: those of the embedded model's or organism's own task)")
    add("--per-step", action="store_true", help="train a map for every layer and step")
    add("--learning-steps", type=int, default=400, help="of each map")
    add_model_flags(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Reads, prints and writes."""
    check_unused(arguments.out)
    if arguments.kind == "logit" and arguments.lens is not None:
        raise UserError("--lens is for a tuned lens; add --kind tuned")
    from codi_lens import plots
    from codi_lens.analysis.lenses import TunedLens, lens_map
    from codi_lens.files import write_json, write_text

    pairs = chosen_pairs(arguments)
    codi, lens, taught = load_model(arguments), None, []
    if arguments.lens is not None:
        lens = TunedLens.load(arguments.lens, codi)
    elif arguments.kind == "tuned":
        taught = taught_on(arguments, pairs)
    folder = fresh_folder(arguments.out, "lens")
    paths = [folder / "lens.json", folder / "lens.html"]
    if taught:
        lens = trained(codi, taught, arguments)
        lens.save(folder / SAVED)
        paths.append(folder / SAVED)
    latents = arguments.num_latents
    found = lens_map(codi, pairs, lens=lens, num_latents=latents, seed=arguments.seed)
    record = {"config": flags.as_json(arguments), "model_digest": codi.digest} | entry(found)
    figures = {"lens": plots.lens_map(found)}
    if lens is not None:
        record["held_out"] = held_out_entry(lens.held_out)
        figures["divergence"] = plots.lens_divergence(lens.held_out)
    write_json({paths[0]: record})
    write_text(paths[1], plots.page(figures))
    print(table(found))
    if lens is not None:
        print(f"\n{divergences(lens.held_out)}")
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def taught_on(arguments: argparse.Namespace, pairs: Sequence["Pair"]) -> list[str]:
    """The questions that a tuned lens is trained on: none that the map is about.

    Raises:
        UserError: no data set is known for the model, or one with no other questions.
    """
    from codi_lens.data.datasets import load_dataset
    from codi_lens.organisms.planted.certify import examples
    from codi_lens.organisms.planted.truth import read_truth
    from codi_lens.shipped import EMBEDDED, ORGANISMS

    name = str(arguments.model).removeprefix("organism:")
    if arguments.data is None and name in ORGANISMS:
        truth = read_truth(ORGANISMS[name])
        drawn = examples(truth, truth.variables[-1], ORGANISM_PROBLEMS)
        questions = [example.base for example in drawn]
    elif arguments.data is None and name not in EMBEDDED:
        raise UserError(f"no questions to train a lens of {name} on; give a data set as --data")
    else:
        questions = list(load_dataset(arguments.data or "toy-heldout").questions)
    asked = {side_of(pair, side).question for pair in pairs for side in SIDES}
    left = [question for question in questions if question not in asked]
    if not left:
        raise UserError(
            "the lens would be trained on the pairs' questions alone; give other --data"
        )
    return left


def trained(
    codi: "HookedCodi", questions: Sequence[str], arguments: argparse.Namespace
) -> "TunedLens":
    """A tuned lens; says how long it took."""
    from codi_lens.analysis.lenses import train_tuned_lens

    began = time.perf_counter()
    lens = train_tuned_lens(
        codi,
        questions,
        per_step=arguments.per_step,
        num_latents=arguments.num_latents,
        learning_steps=arguments.learning_steps,
        seed=arguments.seed,
    )
    seconds = time.perf_counter() - began
    print(f"tuned lens trained in {seconds:.0f} s\n", flush=True)
    return lens


def entry(found: "LensMap") -> dict[str, Any]:
    """The content of `lens.json`: means over questions, by layer and step."""
    results = {}
    for name, one in found.results.items():
        layer, column = one.best
        results[name] = {
            "n": len(one.questions),
            "best": {"layer": layer, "step": found.steps[column]},
            "probability": one.probability.mean(0).tolist(),
            "median_rank": one.rank.median(0).values.tolist(),
            "control_probability": one.control_probability.mean(0).tolist(),
            "control_median_rank": one.control_rank.median(0).values.tolist(),
        }
    return {"kind": found.kind, "steps": list(found.steps), "results": results}


def held_out_entry(kl: "HeldOut") -> dict[str, Any]:
    """The divergences as plain data, [layer][step]."""
    values = {"logit": kl.logit.tolist(), "tuned": kl.tuned.tolist()}
    return {"questions": kl.n, "steps": list(kl.steps)} | values


def table(found: "LensMap") -> str:
    """For each result, the place where it is most readable beyond the control."""
    lines = [
        f"{found.kind} lens, {len(found.variants)} questions; where each result is most readable:",
        "",
        f"{'':>32}{'own run':>20}{'another question':>24}",
        f"{'result':>8}{'n':>6}{'layer':>8}{'step':>10}{'probability':>12}{'rank':>8}{'probability':>16}{'rank':>8}",
    ]
    for name, one in found.results.items():
        cell = (slice(None), *one.best)
        layer, column = one.best
        place = f"{name:>8}{len(one.questions):>6}{layer:>8}{found.steps[column]!s:>10}"
        own, control = (
            (float(shares[cell].mean()), int(ranks[cell].median()))
            for shares, ranks in (
                (one.probability, one.rank),
                (one.control_probability, one.control_rank),
            )
        )
        lines.append(f"{place}{own[0]:>12.3f}{own[1]:>8}{control[0]:>16.3f}{control[1]:>8}")
    return "\n".join(
        [*lines, "", "probability: mean over questions; rank: median, 1 is the most likely token"]
    )


def divergences(kl: "HeldOut") -> str:
    """Held-out divergence layer by layer, the mean over steps."""
    lines = [
        f"KL from the final distribution in nats, {kl.n} held-out questions, mean over steps:",
        "",
        f"{'layer':>8}{'logit lens':>14}{'tuned lens':>14}",
    ]
    both = zip(kl.logit.mean(1).tolist(), kl.tuned.mean(1).tolist(), strict=True)
    lines += [f"{i:>8}{logit:>14.3f}{tuned:>14.3f}" for i, (logit, tuned) in enumerate(both)]
    return "\n".join(lines)


main = Program("lens", __doc__, add_flags, measure)
