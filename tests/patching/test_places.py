"""Every place, intervention and effect against one plain run per cell; and what a row's label means."""

import pytest
import torch

from codi_lens import Pair, UserError, Variant, patch_layers, patch_positions
from codi_lens.choices import RESIDUAL_SITES, SITES
from codi_lens.patching.interventions import Add, constant, from_run
from codi_lens.patching.means import mean_activations
from codi_lens.patching.places import SITE_KINDS, sites_of
from codi_lens.patching.plan import SOURCE
from tests.laws import plain
from tests.models.architectures import load

UNEQUAL = Pair(0, Variant("one plus two plus 3?", 6), Variant("12 plus 3?", 15))  # in length
PAIRS = [UNEQUAL, Pair(1, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43))]
EQUAL = [PAIRS[1], Pair(2, Variant("5 plus 6?", 991234), Variant("5 plus 7?", 9955))]
ROWS = {
    "z": ("1.1", [("blocks.1.attn.hook_z", 1)]),
    "q": ("0.3", [("blocks.0.attn.hook_q", 3)]),
    "k": ("1.kv0", [("blocks.1.attn.hook_k", 0)]),
    "v": ("0.kv0", [("blocks.0.attn.hook_v", 0)]),
    "kv": ("1.kv0", [("blocks.1.attn.hook_k", 0), ("blocks.1.attn.hook_v", 0)]),
    "pattern": ("1.2", [("blocks.1.attn.hook_pattern", 2)]),
    "mlp_post": ("0.n5", [("blocks.0.mlp.hook_post", 5)]),
    "thought": ("thought", [("hook_embed", None)]),
    "ln2.hook_normalized": (1, [("blocks.1.ln2.hook_normalized", None)]),
}
"""Site -> a row, and what it is in the model."""


def changes(codi, pair, places, step, effect, direction):
    """The plain run's edits for an effect of patching the source's activation."""
    base, source = plain.sides(pair, direction)
    ran = plain.unpatched(codi, source)
    values = [
        (ran.thoughts[step] if name == "hook_embed" else ran.at(name, step, part))
        for name, part in places
    ]
    edits = [(name, step, part, v) for (name, part), v in zip(places, values, strict=True)]
    if effect == "total":
        return {"edits": edits}
    if effect == "direct":
        return {"edits": edits, "feed": dict(enumerate(plain.unpatched(codi, base).thoughts))}
    return {"feed": dict(enumerate(plain.run(codi, base, edits=edits).thoughts))}


@pytest.mark.parametrize("site", list(ROWS))
def test_every_place_equals_one_plain_run_per_cell(codi, site):
    row, places = ROWS[site]
    direction = ("denoise", "noise")[list(ROWS).index(site) % 2]
    pairs = EQUAL[:1] if site == "pattern" else PAIRS[:1]
    latents = codi.config.num_latents
    sweep = patch_positions(
        codi,
        pairs,
        site=site,
        layers=[row],
        positions=[1, latents - 1],
        effect="all",
        direction=direction,
    )
    for step, effects in ((1, ("total", "direct", "indirect")), (latents - 1, ("total",))):
        for effect in effects:
            own = changes(codi, pairs[0], places, step, effect, direction)
            expected = plain.metrics(codi, pairs[0], direction, **own)
            plain.same(sweep, 0, expected, effect=effect, row=row, column=step)


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    return load({"kv_heads": 2}, tmp_path_factory.mktemp("grouped"))


def test_rows_of_all_kinds_can_be_mixed_and_their_activations_are_kept(grouped):
    rows = [
        0,
        "thought",
        "1.1",
        "1.kv1",
        "0.n7",
        "blocks.1.attn.hook_z",
        "ln_final.hook_normalized",
    ]
    sweep = patch_positions(grouped, PAIRS, layers=rows, positions=["bot", 0, "eot"])
    assert sweep.axes["row"] == tuple(rows)
    for pair, outcome in zip(PAIRS, sweep.outcomes, strict=True):
        ran = plain.unpatched(grouped, pair.clean.question)
        kept = outcome.activations[:, 1]
        head, key = ran.at("blocks.1.attn.hook_z", 0, 1), ran.at("blocks.1.attn.hook_k", 0, 1)
        value = ran.at("blocks.1.attn.hook_v", 0, 1)
        wanted = [
            ran.at("blocks.0.hook_resid_post", 0),
            ran.thoughts[0],
            head,
            torch.cat([key, value]),
            ran.at("blocks.0.mlp.hook_post", 0, 7)[None],
            ran.at("blocks.1.attn.hook_z", 0).flatten(),
            ran.at("ln_final.hook_normalized", 0),
        ]
        for found, expected in zip(kept, wanted, strict=True):
            torch.testing.assert_close(found[: len(expected)], expected, atol=1e-11, rtol=0)
            assert not found[len(expected) :].any()


@pytest.mark.parametrize("effect", ["total", "direct", "indirect"])
def test_all_heads_together_are_the_layers_attention(grouped, effect):
    def together(rows, site):
        return patch_layers(grouped, PAIRS, site=site, layers=rows, positions=[1], effect=effect)

    heads = together(["blocks.1.attn.hook_z"], "z").values("logit_diff")
    torch.testing.assert_close(
        heads, together([1], "attn_out").values("logit_diff"), atol=1e-9, rtol=0
    )


def test_keys_and_values_of_all_layers_are_what_later_steps_attend_to(grouped):
    """Held thoughts, everything of latent 1 exchanged: what it was fed, or all its keys and values."""
    fed = patch_positions(grouped, PAIRS, layers=["thought"], positions=[1], effect="direct")
    for p, pair in enumerate(PAIRS):
        base, source = plain.sides(pair, "denoise")
        held = dict(enumerate(plain.unpatched(grouped, base).thoughts))
        made = plain.unpatched(grouped, source).thoughts[1]
        there = plain.run(grouped, base, edits=[("hook_embed", 1, None, made)], feed=held)
        edits = [
            (f"blocks.{layer}.attn.hook_{x}", 1, None, there.at(f"blocks.{layer}.attn.hook_{x}", 1))
            for layer in range(2)
            for x in "kv"
        ]
        expected = plain.metrics(grouped, pair, edits=edits, feed=held)
        plain.same(fed, p, expected, row="thought", column=1)


@pytest.mark.parametrize("site", ["resid_post", "z", "kv", "mlp_post"])
@pytest.mark.parametrize("name", ["zero", "mean", "resample", "steer", "random"])
def test_every_intervention_puts_in_what_it_says(grouped, name, site):
    rows = {"resid_post": [1], "z": ["1.1"], "kv": ["0.kv1"], "mlp_post": ["0.n3"]}[site]
    data = [*EQUAL, UNEQUAL]
    sweep = patch_positions(
        grouped, PAIRS, site=site, layers=rows, positions=[1], intervention=name, direction="noise", seed=3,
        data=data if name in ("mean", "steer") else None, strength=0.7 if name == "steer" else 1.0,
    )  # fmt: skip
    places = [(str(s.name), s.part) for s in sites_of(site, rows[0], 1)]
    for p, pair in enumerate(PAIRS):
        base = plain.unpatched(grouped, pair.clean.question)
        source = plain.unpatched(grouped, pair.corrupted.question)
        edits = []
        for hook, part in places:
            seen = {
                side: torch.stack(
                    [
                        plain.unpatched(grouped, getattr(d, side).question).at(hook, 1, part)
                        for d in data
                    ]
                ).mean(0)
                for side in ("clean", "corrupted")
            }
            own, other = base.at(hook, 1, part), source.at(hook, 1, part)
            donor = sweep.outcomes[p].donor
            value = {
                "zero": torch.zeros_like(own),
                "mean": (seen["clean"] + seen["corrupted"]) / 2,
                "steer": own + 0.7 * (seen["clean"] - seen["corrupted"]),
            }.get(name)
            if name == "resample":
                (lent,) = [q for q in PAIRS if q.pair_id == donor]
                value = plain.unpatched(grouped, lent.corrupted.question).at(hook, 1, part)
            if name == "random":
                return  # its law is that of the control, below
            assert (value - own).abs().max() > 1e-6 or (other - own).abs().max() < 1e-6
            edits.append((hook, 1, part, value))
        expected = plain.metrics(grouped, pair, "noise", edits=edits)
        plain.same(sweep, p, expected, row=rows[0], column=1)


def test_a_random_direction_is_the_control_of_that_name(grouped):
    one = patch_positions(grouped, PAIRS, site="z", intervention="random", seed=2)
    other = patch_positions(grouped, PAIRS, site="z", controls=True, seed=2)
    for name in ("kl_divergence", "logit_diff"):
        found = one.values(name, effect="total")
        control = other.values(name, effect="random_direction")
        torch.testing.assert_close(found, control, atol=1e-12, rtol=0)


def test_interventions_of_the_users(grouped):
    vector = torch.linspace(-1, 1, grouped.model.cfg.d_model, dtype=torch.float64)
    steered = patch_positions(
        grouped, PAIRS, layers=[1], positions=[0], intervention=Add((), vector, 2)
    )
    taken = patch_positions(grouped, PAIRS, intervention=lambda site: from_run(SOURCE))
    assert torch.equal(
        taken.values("logit_diff"), patch_positions(grouped, PAIRS).values("logit_diff")
    )
    for p, pair in enumerate(PAIRS):
        own = plain.unpatched(grouped, pair.corrupted.question).at("blocks.1.hook_resid_post", 0)
        edits = [("blocks.1.hook_resid_post", 0, None, own + 2 * vector)]
        plain.same(steered, p, plain.metrics(grouped, pair, edits=edits), row=1, column=0)
    with pytest.raises(UserError, match=r"to put in has shape \(3,\); it goes where \(32,\) is"):
        patch_positions(grouped, PAIRS, intervention=constant(torch.zeros(3)))


def test_means_do_not_depend_on_what_is_read_side_by_side(grouped):
    questions = [pair.clean.question for pair in (*PAIRS, *EQUAL)]
    (site,) = sites_of("z", "1.2", 2)
    together = mean_activations(grouped, questions, [site])[site]
    alone = [mean_activations(grouped, [question], [site])[site] for question in questions]
    torch.testing.assert_close(together, torch.stack(alone).mean(0), atol=1e-12, rtol=0)


def test_a_head_is_patched_alone(grouped):
    """What the other heads put out at that step is the base's."""
    base = plain.unpatched(grouped, UNEQUAL.corrupted.question)
    value = plain.unpatched(grouped, UNEQUAL.clean.question).at("blocks.0.attn.hook_z", 1, 2)
    ran = plain.run(
        grouped, UNEQUAL.corrupted.question, edits=[("blocks.0.attn.hook_z", 1, 2, value)]
    )
    for head in (0, 1, 3):
        assert torch.equal(
            ran.at("blocks.0.attn.hook_z", 1, head), base.at("blocks.0.attn.hook_z", 1, head)
        )


def test_any_number_of_cells_keeps_to_the_rows_that_are_allowed(grouped, monkeypatch):
    from codi_lens.patching import outcomes

    seen = []
    plainly = outcomes.run_batch
    monkeypatch.setattr(
        outcomes,
        "run_batch",
        lambda c, q, runs, n: seen.append(len(runs)) or plainly(c, q, runs, n),
    )
    options = {"layers": ["0.1", "1.kv0"], "effect": "all", "controls": True}
    whole = patch_positions(grouped, PAIRS, **options)
    seen.clear()
    split = patch_positions(grouped, PAIRS, batch_rows=7, **options)
    assert len(seen) > 10
    assert max(seen) <= 7
    for name, values in whole.metrics.items():
        torch.testing.assert_close(values, split.metrics[name], atol=1e-9, rtol=0, equal_nan=True)
    kept, again = (one.outcomes[0].activations for one in (whole, split))
    torch.testing.assert_close(kept, again, atol=1e-12, rtol=0)


def test_the_names_of_sites_are_those_that_are_known():
    assert set(SITE_KINDS) == set(SITES)
    assert set(RESIDUAL_SITES) < set(SITES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["0.4"]}, "no head '0.4'; layers are 0 to 1, heads 0 to 3"),
        ({"layers": ["2.0"]}, "no head '2.0'; layers are 0 to 1"),
        ({"layers": ["0.kv2"]}, "no key/value head '0.kv2'; .* key/value heads 0 to 1"),
        ({"layers": ["0.n999"]}, "no neuron '0.n999'"),
        ({"layers": ["blocks.0.hook_nothing"]}, "no place 'blocks.0.hook_nothing'; give layers"),
        ({"site": "hook_nothing"}, "no site 'hook_nothing'; known are resid_pre"),
        ({"site": "pattern"}, "pair 0: its prompts have 9 and 7 tokens; attention patterns"),
        ({"intervention": "median"}, "no intervention 'median'; known are source, zero, mean"),
        (
            {"strength": 2.0},
            "strength means nothing to the intervention 'source'; leave it out .steer",
        ),
        (
            {"intervention": "zero", "data": PAIRS},
            "data means nothing to the intervention 'zero'; leave it out .mean, steer would",
        ),
        ({"strength": float("nan")}, "strength is nan; it must be a finite number"),
    ],
)
def test_what_is_not_there_is_said(grouped, options, message):
    with pytest.raises(UserError, match=message):
        patch_positions(grouped, PAIRS, **options)


def test_a_pattern_has_no_mean_and_a_pair_alone_no_other(grouped):
    with pytest.raises(UserError, match="hook_pattern has no mean"):
        patch_positions(grouped, EQUAL, site="pattern", intervention="mean")
    with pytest.raises(UserError, match="pair 1: no other pair to take activations from"):
        patch_positions(grouped, EQUAL[:1], intervention="resample")
