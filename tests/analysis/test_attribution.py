"""Attribution: gradients through the loop against finite differences of the plain loop, and its laws."""

import pytest
import torch

from codi_lens import UserError, attribute, load_pairs
from codi_lens.analysis.attribution.fidelity import compared, pearson
from codi_lens.analysis.attribution.gradients import Asked, gradients, measured, run, unpatched
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site
from tests.laws import plain
from tests.models.architectures import MODELS, load
from tests.patching.test_places import EQUAL, ROWS, UNEQUAL

PLACES = {
    **{site: ROWS[site] for site in ROWS},
    "resid_pre": (1, [("blocks.1.hook_resid_pre", None)]),
    "resid_mid": (0, [("blocks.0.hook_resid_mid", None)]),
    "resid_post": (1, [("blocks.1.hook_resid_post", None)]),
    "attn_out": (0, [("blocks.0.hook_attn_out", None)]),
    "mlp_out": (0, [("blocks.0.hook_mlp_out", None)]),
}


POINTS = 1025


@pytest.fixture(scope="module", params=["llama, grouped", "gpt2"])
def codi(request, tmp_path_factory):
    return load(MODELS[request.param], tmp_path_factory.mktemp("kinds"))


def slope(codi, pair, places, step, effect, size=1e-4):
    """The central difference of the plain loop's metric, along the change from base to source at a place."""
    base, source = (plain.unpatched(codi, q) for q in plain.sides(pair, "denoise"))
    feed = dict(enumerate(base.thoughts)) if effect == "direct" else {}

    def at(ran, name, part):
        return ran.thoughts[step] if name == "hook_embed" else ran.at(name, step, part)

    def value(share):
        edits = [
            (name, step, part, torch.lerp(at(base, name, part), at(source, name, part), share))
            for name, part in places
        ]
        return plain.metrics(codi, pair, edits=edits, feed=feed)["logit_diff"]

    return (value(size) - value(-size)) / (2 * size)


@pytest.mark.parametrize("site", PLACES)
def test_a_gradient_is_the_finite_difference_of_the_plain_loop(codi, site):
    row, places = PLACES[site]
    pair = EQUAL[0] if site == "pattern" else (EQUAL[1] if site == "z" else UNEQUAL)
    for effect in ("total", "direct") if site != "pattern" else ("total",):
        found = attribute(
            codi,
            [pair],
            site=site,
            places=[row],
            positions=[1],
            method="gradient",
            effect=effect,
            fidelity_cells=0,
        )
        expected = slope(codi, pair, places, 1, effect)
        assert float(found.scores) == pytest.approx(expected, rel=1e-6, abs=1e-11)


def test_the_integral_over_a_places_own_line_is_its_exact_effect(codi):
    """The fundamental theorem, by Gauss' rule: with one place, integration makes attribution exact."""
    pair, site = UNEQUAL, Site("blocks.0.hook_resid_post", 0)
    asked = Asked(codi, [pair], "denoise", "logit_diff", codi.config.num_latents)
    plain_logits, base, source = unpatched(asked, [site])
    nodes = torch.linspace(0, 1, POINTS, dtype=torch.float64)  # Simpson's rule
    weights = torch.ones(POINTS, dtype=torch.float64)
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    start, end = base.kept["clean"][site], source.kept["clean"][site]
    rows = [0] * len(nodes)
    line = torch.lerp(start, end, nodes[:, None, None])
    hooks = [(site, lambda activation, hook: line)]
    runs = run(asked, asked.questions("corrupted") * len(nodes), rows, [site], hooks)
    values = measured(asked, runs, rows, plain_logits)
    slopes = (gradients(asked, values, runs)[site] * (end - start)).sum((1, 2))
    integral = float((slopes * weights).sum() / 3 / (POINTS - 1))
    values = values.detach()
    exact = float(values[-1] - values[0])
    assert integral == pytest.approx(exact, rel=1e-6)
    source_run = plain.unpatched(codi, pair.clean.question)
    edits = [(site.name, 0, None, source_run.at(site.name, 0))]
    patched = plain.metrics(codi, pair, edits=edits)["logit_diff"]
    assert float(values[-1]) == pytest.approx(patched, abs=1e-9)


def test_integration_is_the_mean_gradient_between_the_prompts(codi):
    """By hand: each point is a prompt whose embeddings lie between, and prompts of unequal length lend their thoughts."""
    for pair in (EQUAL[0], UNEQUAL):
        found = attribute(codi, [pair], method="integrated", steps=3, fidelity_cells=0)
        asked = Asked(codi, [pair], "denoise", "logit_diff", codi.config.num_latents)
        site = Site("blocks.0.hook_resid_post", 0)
        fed = [Site("hook_embed", k) for k in range(codi.config.num_latents)]
        logits, base, source = unpatched(asked, [site, *fed])
        kept, other = base.kept["clean"], source.kept["clean"]
        total = 0.0
        for share in (1 / 6, 3 / 6, 5 / 6):
            hooks = []
            if pair is UNEQUAL:
                for k in fed:
                    goal = torch.lerp(kept[k], other[k], share)
                    hooks.append((k, lambda a, hook, goal=goal: a + (goal - a).detach()))
            else:
                tokens = [codi.tokens.prompts([q])[0] for q in plain.sides(pair, "denoise")]
                between = torch.lerp(*(codi.loop.embed(t) for t in tokens), share)
                hooks = [
                    (("hook_embed", "prompt"), lambda a, hook, to=between: to[:, :-1].clone()),
                    (("hook_embed", "bot"), lambda a, hook, to=between: to[:, -1:].clone()),
                ]
            ran = run(asked, asked.questions("corrupted"), [0], [site], hooks)
            gradient = gradients(asked, measured(asked, ran, [0], logits), ran)[site]
            total += float((gradient * (other[site] - kept[site])).sum()) / 3
        assert float(found.scores[0, 0, 0]) == pytest.approx(total, rel=1e-9)
        assert found.interpolated == (pair is not UNEQUAL,)


def test_pairs_do_not_see_each_other(codi):
    pairs = [*EQUAL, UNEQUAL]
    together = attribute(codi, pairs, site="z", steps=2, fidelity_cells=0)
    alone = [attribute(codi, [pair], site="z", steps=2, fidelity_cells=0) for pair in pairs]
    torch.testing.assert_close(
        together.scores, torch.cat([one.scores for one in alone]), rtol=1e-9, atol=1e-12
    )


def test_correlations_by_hand():
    cells = tuple((pair, 0, column) for pair in range(2) for column in range(3))
    scores = torch.tensor([1.0, 2.0, 3.0, 2.0, 4.0, 9.0])
    exact = torch.tensor([2.0, 4.0, 6.0, 1.0, 0.0, float("nan")])
    found = compared(cells, scores, exact)
    assert found.n == 5
    mean = [1.5, 3.0, 3.0], [1.5, 2.0, 6.0]
    assert found.of_means == pytest.approx(pearson(*map(torch.tensor, mean)))
    x, y = scores[:5] - 2.4, exact[:5] - 2.6
    assert found.pearson == pytest.approx(float((x @ y) / (x.norm() * y.norm())))
    assert found.by_pair[0] == pytest.approx(1.0)
    assert found.by_pair[1] != found.by_pair[1]
    assert "do not rely on single cells" in found.text


def test_on_the_embedded_model_integration_is_right_and_the_plain_gradient_is_not():
    codi, pairs = HookedCodi.from_pretrained("toy"), load_pairs("toy")[:40]
    integrated = attribute(codi, pairs, fidelity_cells=720).fidelity
    assert integrated.n == 720
    assert integrated.pearson >= 0.80
    assert integrated.of_means >= 0.95
    assert attribute(codi, pairs, method="gradient", fidelity_cells=720).fidelity.pearson < 0.5


def test_what_has_no_gradient_is_refused(codi):
    with pytest.raises(UserError, match="'flipped' has no gradient; one such as 'logit_diff'"):
        attribute(codi, EQUAL, metric="flipped")
    with pytest.raises(UserError, match="no effect 'indirect'; known are total, direct"):
        attribute(codi, EQUAL, effect="indirect")
    with pytest.raises(UserError, match="steps"):
        attribute(codi, EQUAL, steps=0)
