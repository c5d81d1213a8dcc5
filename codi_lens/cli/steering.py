"""What does adding a direction do? A difference of means, at several strengths, beside a random vector.

At one place and step, adds to the corrupted question's activation the mean over pairs of clean − corrupted, or with --label the
difference between the means of the two sides' classes, each from pairs of other folds. Prints, strength by strength, how many
answers are still right, how many have become the clean question's, and the same for a random vector as long. Writes
`steering.json` and the figure `steering.html`.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codi_lens.cli import asking, flags
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

if TYPE_CHECKING:
    from codi_lens.analysis.steering import Steering


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    add = parser.add_argument
    place = "where: thought, a layer, a head such as 2.1, or a hook point's name"
    add("--place", type=flags.rows_of_a_map, required=True, help=place)
    add("--step", type=flags.labels, required=True, help="a latent, bot or eot")
    add("--site", default="resid_post", help="what of a layer")
    text = "how often the vector is added (default: 0,0.5,1,2,4)"
    add("--strengths", type=numbers, help=text)
    what = "lead from the class of one side to that of the other: answer, v1, operand1 …"
    add("--label", help=f"{what} (default: the mean of clean − corrupted)")
    add("--folds", type=int, default=5, help="of the cross-fitting")
    add_model_flags(parser)


def numbers(text: str) -> tuple[float, ...]:
    """Parses "0,0.5,1"."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as 0,0.5,1") from error


def measure(arguments: argparse.Namespace) -> None:
    """Steers, prints and writes."""
    check_unused(arguments.out)
    from codi_lens import plots
    from codi_lens.analysis.steering import STRENGTHS, steer
    from codi_lens.files import write_json, write_text

    where = [*arguments.place, *arguments.step]
    if len(where) != 2:
        raise UserError(f"--place and --step are {', '.join(map(str, where))}; give one of each")
    pairs = asking.chosen_pairs(arguments)
    found = steer(
        codi := load_model(arguments),
        pairs,
        *where,
        strengths=arguments.strengths or STRENGTHS,
        label=arguments.label,
        site=arguments.site,
        num_latents=arguments.num_latents,
        folds=arguments.folds,
        seed=arguments.seed,
    )
    print(table(found))
    folder = fresh_folder(arguments.out, "steering")
    paths = folder / "steering.json", folder / "steering.html"
    record = {"config": flags.as_json(arguments), "model_digest": codi.digest}
    write_json({paths[0]: record | entry(found)})
    write_text(paths[1], plots.page({"steering": plots.steering(found)}))
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def entry(found: "Steering") -> dict[str, Any]:
    """The content of `steering.json`: every pair at every strength, and its vector."""
    return {
        "strengths": list(found.strengths),
        "left_out": found.left_out,
        "pairs": [
            {"pair_id": pair.pair_id, "vector": found.vectors[i].tolist()}
            | {
                name: {field: values[i].tolist() for field, values in vars(swept).items()}
                for name, swept in (("steered", found.steered), ("random", found.random))
            }
            for i, pair in enumerate(found.pairs)
        ],
    }


def table(found: "Steering") -> str:
    """Strengths × what becomes of the answers."""
    out = f", {found.left_out} left out" if found.left_out else ""
    lines = [
        f"{found.place} at {found.step}: {len(found.pairs)} pairs{out}; vectors of length "
        f"{float(found.vectors.norm(dim=1).mean()):.2f} on average",
        "",
        "                          vector                        random",
        "strength   right  flipped  logit diff    right  flipped  logit diff",
    ]
    for i, strength in enumerate(found.strengths):
        cells = ""
        for swept in (found.steered, found.random):
            right, flipped, diff = (float(one[:, i].nanmean()) for one in vars(swept).values())
            cells += f"{right:>8.2f}{flipped:>9.2f}{diff:>12.2f} "
        lines.append(f"{strength:>8g}{cells}".rstrip())
    return "\n".join(lines)


main = Program("steering", __doc__, add_flags, measure)
