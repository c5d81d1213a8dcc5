"""What the page says in words agrees with the numbers."""

import re
from dataclasses import replace
from html import unescape

import torch

from codi_lens.analysis.aggregates import aggregate, donor_threshold
from codi_lens.report import methods, words
from tests.models.invented import SCRIPT, invented_sweep
from tests.report.test_build import MANIFEST

SWEEP = invented_sweep(pairs=3)
GROUP = aggregate(SWEEP)


def plain(html):
    return unescape(re.sub("</?b>|</?code>", "", html))


def test_the_finding_is_the_largest_cell_with_its_interval_parts_and_control():
    total = GROUP.means["recovery"][0].clone()
    total[SWEEP.structural_zeros()] = -1
    best = divmod(int(total.argmax()), total.shape[1])
    value, low, high, flipped = (
        float(t[0][best])
        for t in (
            *(t["recovery"] for t in (GROUP.means, GROUP.low, GROUP.high)),
            GROUP.means["flipped"],
        )
    )
    direct, indirect = (float(GROUP.means["recovery"][i][best]) for i in (1, 2))
    group = aggregate(SWEEP)
    group.means["recovery"][SWEEP.axes["effect"].index("resample")] /= 10
    limit = donor_threshold(SWEEP, group)
    text = plain(words.found(SWEEP, group))
    assert text.startswith(
        f"Layer {best[0]}, latent position {best[1]} stands out most (total effect): "
    )
    assert (
        f"moves {value:.0%} of the way to the clean run’s (95% interval {low:.0%} to {high:.0%})"
        in text
    )
    assert f"and {flipped:.0%} of the answers become the clean question’s" in text
    assert f"fed on carry {indirect:.0%}" in text
    assert f"position {direct:.0%}" in text
    count = int((total > limit).sum())
    assert count > 1
    assert (
        f"{count} of 9 cells are above what another pair’s activations do anywhere ({limit:.0%})"
        in text
    )


def test_where_nothing_exceeds_the_control_or_has_a_value_it_is_said():
    weak = aggregate(SWEEP)
    weak.means["recovery"][SWEEP.axes["effect"].index("resample")] = 2
    assert "No cell is above what another pair’s" in plain(words.found(SWEEP, weak))
    only = aggregate(SWEEP)
    only.means["recovery"][SWEEP.axes["effect"].index("resample")] = (
        only.means["recovery"][0, ~SWEEP.structural_zeros()].sort().values[-2]
    )
    assert "It is the only cell above" in plain(words.found(SWEEP, only))
    only.means["recovery"].fill_(torch.nan)
    assert words.found(SWEEP, only) == "No cell has a value."


def test_of_iterations_it_tells_what_all_patches_reach_and_what_survives_of_one():
    sweep = invented_sweep("iterative_patching", pairs=2)
    group = aggregate(sweep)
    cumulative, chained = (
        group.means["recovery"][sweep.axes["effect"].index(n)] for n in ("cumulative", "chained")
    )
    text = plain(words.found(sweep, group))
    free = cumulative.masked_fill(sweep.structural_zeros("cumulative"), -1)
    assert (
        f"(cumulative): there the corrupted run’s logit difference moves {float(free.max()):.0%}"
        in text
    )
    passed_on = chained[:, 1:].masked_fill(sweep.structural_zeros("chained")[:, 1:], -1)
    assert (
        f"(chained): there the corrupted run’s logit difference moves {float(passed_on.max()):.0%}"
        in text
    )


def condition(name, accuracy, low, high, donor=None):
    row = {"condition": name, "accuracy": accuracy, "n": 50, "interval_95": [low, high]}
    return row | {"donor_rate": donor}


def test_the_model_needs_its_thoughts_only_where_the_intervals_part():
    record = {"num_latents": 3, "conditions": [condition("3 latents", 0.9, 0.8, 0.96)]}
    with_none = condition("0 latents", 0.2, 0.1, 0.3)
    lent = condition("another problem's latents", 0.1, 0.0, 0.2, 0.7)
    said = plain(
        words.needed(record | {"conditions": [*record["conditions"], with_none, lent]}, MANIFEST)
    )
    assert said == (
        "The model needs its thoughts: it is right on 90% of 50 questions with all 3 (95% interval 80% to 96%) and on "
        "20% with none (95% interval 10% to 30%); with another problem’s thoughts it gives that problem’s answer in 70%."
    )
    overlapping = condition("0 latents", 0.7, 0.6, 0.85)
    said = words.needed(record | {"conditions": [*record["conditions"], overlapping]}, MANIFEST)
    assert said.startswith("That the model needs its thoughts is not shown")
    asked = MANIFEST | {"config": {"model": SCRIPT, "pairs": "toy"}}
    unknown = words.needed(None, asked)
    assert SCRIPT not in unknown
    assert "was not measured" in unknown
    assert "experiments.necessity --model" in plain(unknown)


def test_it_is_said_how_many_pairs_there_are_and_what_was_left_out():
    counts = {"all": 3, "competent": 2, "same_answer": 4}
    manifest = MANIFEST | {"pairs": MANIFEST["pairs"] | {"n_per_group": counts}}
    short = replace(GROUP, n_recovery=1)
    assert plain(words.counted(SWEEP, short, manifest)) == (
        "n = 3 pairs, both questions answered right in 2; recovery leaves out 2, whose clean and corrupted run are closer "
        "than 1 in logit difference; 4 more, with the same answer on both sides, stand apart."
    )


def test_runs_of_one_experiment_have_headings_that_tell_them_apart():
    noise = replace(SWEEP, settings=replace(SWEEP.settings, direction="noise"))
    layers = invented_sweep("layer_patching", pairs=1)
    found = words.headings({"a": SWEEP, "b": noise, "c": SWEEP, "d": layers})
    assert list(found.values()) == [
        "Position-wise patching: layer × latent position (resid_post, denoise), a",
        "Position-wise patching: layer × latent position (resid_post, noise)",
        "Position-wise patching: layer × latent position (resid_post, denoise), c",
        "Layer-wise patching: layer by layer",
    ]


def test_the_methods_name_models_runs_pairs_intervals_and_versions():
    text = methods.paragraph({"a": SWEEP, "b": SWEEP}, {"a": MANIFEST, "b": MANIFEST})
    assert (
        text.count(
            "We intervene on m (3 layers, 3 latent thoughts, float32, weights with SHA-256 dddd"
        )
        == 1
    )
    assert text.count("over 3 pairs (SHA-256 eeeeeeeeeeee…)") == 2
    assert "direct effect: later thoughts held at the base run" in text
    assert (
        "95% percentile bootstrap intervals over pairs (1,000 resamples, seed 0). Software: torch 2."
        in text
    )
