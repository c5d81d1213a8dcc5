"""The seams: one more experiment, intervention, metric, readout and judge, each from within this file, end to end.

No file of the library is touched; what is added here is what an addition to it would be.
"""

from dataclasses import dataclass, replace

import pytest
import torch

from codi_lens import Site, patch_layers, patch_positions, plots
from codi_lens.analysis.aggregates import aggregate
from codi_lens.analysis.latent_ablation import measure_necessity
from codi_lens.data.judges import JUDGES, register_judge
from codi_lens.patching.effects import cell_plan
from codi_lens.patching.experiments import EXPERIMENTS, Experiment, register
from codi_lens.patching.interventions import Intervention
from codi_lens.patching.metrics import METRICS, Metric, register_metric
from codi_lens.patching.plan import SOURCE
from codi_lens.patching.readout import READOUTS, BehindStem, register_readout
from codi_lens.patching.sweep import make_settings, run_experiment
from codi_lens.records.read import load, read_manifest
from codi_lens.records.write import write_record
from codi_lens.report.build import report
from tests.models.runs import PAIRS


@pytest.fixture(autouse=True)
def _forgotten():
    """What a test registers is known to that test alone."""
    before = [(registry, set(registry)) for registry in (EXPERIMENTS, METRICS, READOUTS, JUDGES)]
    yield
    for registry, names in before:
        for name in set(registry) - names:
            del registry[name]


# -- an experiment -------------------------------------------------------------------------------


class Neighbours(Experiment):
    """Two neighbouring positions at once."""

    name = "neighbour_patching"
    title = "neighbours"
    across = "first of two positions"
    cells_key = "neighbour_results"
    cell_names = ("layer", "position")

    def columns(self, settings):
        return settings.positions[:-1]

    def plan(self, settings, given):
        both = list(zip(settings.positions, settings.positions[1:], strict=False))
        return cell_plan(
            settings, [[(la, k) for k in two] for la in settings.layers for two in both], given
        )


def test_an_experiment_is_one_class(tiny, tmp_path):
    register(Neighbours())
    settings = make_settings(tiny, effect="all", controls=True)
    sweep = run_experiment("neighbour_patching", tiny, PAIRS, settings)
    whole = patch_layers(tiny, PAIRS, positions=[1, 2], effect="all", controls=True)
    for metric in ("logit_diff", "kl_divergence"):
        found = sweep.values(metric, position=1)
        torch.testing.assert_close(found, whole.values(metric, column="all"), equal_nan=True)
    assert sweep.structural_zeros("direct").tolist() == [
        [False, False],
        [False, False],
        [True, True],
    ]
    write_record(tmp_path, sweep, tiny, {"pairs": "mine"})
    back = load(tmp_path)
    assert back.experiment is sweep.experiment
    assert torch.equal(back.values("logit_diff"), sweep.values("logit_diff"))
    assert set(plots.gallery(back)) == {"recovery", "effects", "by-operand", "controls", "kl"}
    both = {"two": back, "one": patch_positions(tiny, PAIRS)}
    page = report(both, dict.fromkeys(both, read_manifest(tmp_path)))
    assert "first of two positions" in page


# -- an intervention -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Halfway(Intervention):
    """The middle between the run's own activation and another run's."""

    def value(self, own, *read):
        return (own + read[0]) / 2


class HalfPositions(Neighbours):
    """Cells that go half of the way."""

    name = "half_patching"

    def columns(self, settings):
        return settings.positions

    def plan(self, settings, given):
        places = [[(layer, k)] for layer in settings.layers for k in settings.positions]
        halfway = replace(given, source=lambda site: Halfway((SOURCE,)))
        return cell_plan(settings, places, halfway)


def test_an_intervention_is_one_class(tiny):
    sweep = run_experiment(HalfPositions(), tiny, PAIRS[:2], make_settings(tiny, layers=[1]))
    for index, pair in enumerate(PAIRS[:2]):
        for step in range(3):
            site = Site("blocks.1.hook_resid_post", step)
            values = [o.activations[0, step] for o in (sweep.outcomes[index],)] + [
                sweep.outcomes[index].base_activations[0, step]
            ]
            middle = sum(values) / 2
            run = tiny.run_with_hooks(
                pair.corrupted.question,
                pair.clean.answer,
                fwd_hooks=[(site, lambda x, hook, middle=middle: middle.expand_as(x).clone())],
            )
            stem = len(tiny.tokens.stem())
            number = tiny.tokens.answer(pair.clean.answer)[stem:]
            expected = torch.stack(
                [run.logits[0, stem + j, t] for j, t in enumerate(number)]
            ).mean()
            found = sweep.values("clean_answer_score", layer=1, position=step)[index, 0]
            torch.testing.assert_close(found, expected)


# -- a metric ------------------------------------------------------------------------------------


def test_a_metric_is_one_function(tiny, tmp_path):
    def entropy(measured):
        log_p = measured.log_probs["clean"]
        return -(log_p.exp() * log_p).sum(-1).mean(-1)

    register_metric(Metric("entropy", "entropy of the answer, nats", entropy))
    sweep = patch_positions(tiny, PAIRS, controls=True)
    values = sweep.values("entropy")
    assert values.isfinite().all()
    assert values.std() > 0
    write_record(tmp_path, sweep, tiny, {"pairs": "mine"})
    assert torch.equal(load(tmp_path).values("entropy"), values)
    torch.testing.assert_close(aggregate(sweep).means["entropy"], values.double().mean(0))
    figure = plots.heatmap(sweep, "entropy")
    assert "entropy of the answer, nats" in figure.layout.title.subtitle.text
    assert "entropy of the answer, nats" in report({"run": sweep}, {"run": read_manifest(tmp_path)})


# -- a readout -----------------------------------------------------------------------------------


class FirstDifference(BehindStem):
    """The answers up to the first token that tells them apart."""

    name = "first_difference"

    def answer(self, codi, pair):
        whole = super().answer(codi, pair)
        end = (whole.first_difference or 0) + 1
        return replace(whole, clean=whole.clean[:end], corrupted=whole.corrupted[:end])


def test_a_readout_is_one_class(tiny, tmp_path):
    register_readout(FirstDifference())
    sweep = patch_positions(tiny, PAIRS, answer_start="first_difference")
    whole = patch_positions(tiny, PAIRS)
    assert torch.equal(sweep.values("logit_diff"), whole.values("logit_diff"))
    assert not torch.equal(sweep.values("logprob_clean"), whole.values("logprob_clean"))
    write_record(tmp_path, sweep, tiny, {})
    assert load(tmp_path).settings.answer_start == "first_difference"


# -- a judge -------------------------------------------------------------------------------------


def test_a_judge_is_one_function(tiny):
    register_judge("long enough", lambda text, answer: len(text) >= answer)
    questions = [pair.clean.question for pair in PAIRS]
    long, short = (
        measure_necessity(tiny, questions, [most, *[999] * 3], judge="long enough")
        for most in (0, 1000)
    )
    assert long.with_latents(3).correct == (True, False, False, False)
    assert short.with_latents(3).correct == (False,) * 4
