"""Draws the pictures of README: one of each experiment, on the embedded model.

Measures what the pictures show, and writes them. Needs the extra `export` and a browser.
"""

import argparse
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from codi_lens.cli import flags
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from codi_lens import HookedCodi, Pair

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
THOUGHTS_OF = 5
"""The pair whose thoughts are shown."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("--out", type=flags.path, default=Path("notebooks/figures"), help="folder")
    add("--format", default="png", choices=flags.IMAGE_FORMATS, help="of the pictures")
    flags.add_limit(parser)


def write(arguments: argparse.Namespace) -> None:
    """Measures, draws and writes every picture."""
    from codi_lens import HookedCodi, load_pairs, plots
    from codi_lens.threads import choose_threads

    codi = HookedCodi.from_pretrained("toy")
    choose_threads(codi.model.cfg.d_model)
    pairs = load_pairs("toy")[: arguments.limit]
    drawn = patching(codi, pairs) | tracing(codi, pairs) | looking(codi, pairs)
    drawn |= reading(codi, pairs)
    drawn |= {"attribution": attributed(codi, pairs), "circuit": circuit()}
    drawn |= {"probes": probed(), "steering": steered(), "scorecard": scored()}
    for path in plots.write_images(arguments.out, drawn, arguments.format):
        print(path)
    print(
        thoughts(codi, pairs[-1] if len(pairs) < THOUGHTS_OF else pairs[THOUGHTS_OF], arguments.out)
    )


def thoughts(codi: "HookedCodi", pair: "Pair", folder: Path) -> Path:
    """A photograph of the page of one question; a PNG, whatever the format of the figures.

    Raises:
        UserError: no Chromium or Chrome on this machine.
    """
    from codi_lens.analysis.thoughts import read_thoughts
    from codi_lens.report.thoughts import thoughts_page

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UserError(
            f"the page is photographed by a browser; install one of {', '.join(BROWSERS)}"
        )
    picture = (folder / "thoughts.png").resolve()
    with TemporaryDirectory() as scratch:
        page = Path(scratch) / "page.html"
        page.write_text(thoughts_page(read_thoughts(codi, pair)), encoding="utf-8")
        flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --no-first-run"
        where = [f"--screenshot={picture}", f"--user-data-dir={scratch}/profile", page.as_uri()]
        size = ["--window-size=1280,790", "--force-device-scale-factor=1.5"]
        subprocess.run([browser, *flags.split(), *size, *where], check=True, capture_output=True)
    return picture


def patching(codi: "HookedCodi", pairs: list["Pair"]) -> dict[str, "go.Figure"]:
    """Figures of the three patching experiments."""
    from codi_lens import patch_iteratively, patch_layers, patch_positions, plots

    position = patch_positions(codi, pairs, effect="all", controls=True)
    layer = patch_layers(codi, pairs, controls=True)
    iterative = patch_iteratively(codi, pairs)
    runs = {sweep.experiment.name: sweep for sweep in (position, layer, iterative)}
    return {
        "heatmap": plots.heatmap(position),
        "by-operand": plots.heatmap_by_operand(position),
        "effects": plots.effects(position),
        "layers": plots.layer_profile({layer.experiment.name: layer}),
        "trajectories": plots.trajectories(iterative),
        "comparison": plots.layer_profile(runs),
    }


def tracing(codi: "HookedCodi", pairs: list["Pair"]) -> dict[str, "go.Figure"]:
    """Figures of heads, interventions, routes, chains, paths, knockouts and influence."""
    from codi_lens import (
        knock_out,
        measure_influence,
        patch_iteratively,
        patch_paths,
        patch_positions,
        patch_routes,
        plots,
    )

    routes = patch_routes(codi, pairs, window=1, controls=True)
    senders = [f"{place}@{step}" for step in (1, 3) for place in ("2.0", "2.2", "2.3", "mlp2")]
    receivers = ["thought@2", "thought@4", "2.kv1.v@3", "logits"]
    paths = patch_paths(codi, pairs, senders=senders, receivers=receivers)
    return {
        "heads": plots.heatmap(patch_positions(codi, pairs, site="z", controls=True)),
        "needed": plots.heatmaps(
            {
                "sufficient: clean into corrupted": patch_positions(codi, pairs),
                "necessary: the mean into clean": patch_positions(
                    codi, pairs, intervention="mean", direction="noise"
                ),
            },
            "kl_divergence",
        ),
        "routes": plots.side_by_side(routes),
        "chains": plots.chains(patch_iteratively(codi, pairs, starts=None)),
        "paths": plots.heatmap(paths),
        "knockout": plots.heatmap(knock_out(codi, pairs)),
        "influence": plots.heatmap(measure_influence(codi, pairs)),
    }


def reading(codi: "HookedCodi", pairs: list["Pair"]) -> dict[str, "go.Figure"]:
    """Figures of attention and of direct logit attribution."""
    from codi_lens import attribute_logits, mean_attention, plots

    questions = [pair.clean for pair in pairs]
    attention = mean_attention(codi, questions, steps=[2, 4, "answer"])
    return {
        "attention": plots.attention(attention),
        "logit-attribution": plots.logit_attribution(attribute_logits(codi, pairs)),
    }


def attributed(codi: "HookedCodi", pairs: list["Pair"]) -> "go.Figure":
    """The figure of attribution."""
    from codi_lens import attribute, plots

    return plots.attribution(attribute(codi, pairs))


def circuit() -> "go.Figure":
    """The drawing of a circuit, of an organism."""
    from codi_lens import plots
    from codi_lens.analysis.circuits import score_edges
    from codi_lens.organisms.scorecard import load_organism

    organism = load_organism("sequential")
    edges = score_edges(organism.codi, organism.pairs[:16])
    return plots.circuit(edges, edges.largest(40, signed=False))


def probed() -> "go.Figure":
    """Where the answer can be read and where it is used, on an organism that has a decoy."""
    from codi_lens import measure_usage, plots, probe
    from codi_lens.cli.asking import problems
    from codi_lens.organisms.scorecard import load_organism

    organism = load_organism("decoy")
    found = probe(organism.codi, problems(organism.truth), "answer")
    return plots.probes(found, measure_usage(organism.codi, organism.pairs, found))


def steered() -> "go.Figure":
    """The way from one class of a planted result to another."""
    from codi_lens import plots, steer
    from codi_lens.organisms.scorecard import load_organism

    organism = load_organism("sequential")
    return plots.steering(steer(organism.codi, organism.pairs, "thought", 2, label="v2"))


def scored() -> "go.Figure":
    """The scorecard, of all methods on all organisms."""
    from codi_lens import plots
    from codi_lens.organisms.scorecard import load_organism
    from codi_lens.organisms.scorecard.scoring import as_json, scorecard
    from codi_lens.shipped import ORGANISMS

    return plots.scorecard(as_json(scorecard(map(load_organism, ORGANISMS))))


def looking(codi: "HookedCodi", pairs: list["Pair"]) -> dict[str, "go.Figure"]:
    """Figures of the necessity check, and of the logit lens on one question and on all."""
    from codi_lens import load_pairs, plots
    from codi_lens.analysis.latent_ablation import measure_necessity
    from codi_lens.analysis.lenses import intermediate_ranks, lens_map, logit_lens, steps_of

    held_out = [side for pair in load_pairs("toy-heldout") for side in (pair.clean, pair.corrupted)]
    questions, answers = [v.question for v in held_out], [v.answer for v in held_out]
    _, cache = codi.run_with_cache(pairs[0].clean.question, pairs[0].clean.answer)
    ranks = intermediate_ranks(codi, logit_lens(codi, cache), pairs[0].clean)
    rows = range(codi.model.cfg.n_layers)
    return {
        "necessity": plots.necessity_bars(measure_necessity(codi, questions, answers)),
        "ranks": plots.ranks(ranks, rows=rows, columns=steps_of(cache)),
        "lens": plots.lens_map(lens_map(codi, pairs)),
    }


main = Program("figures", __doc__, add_flags, write)
