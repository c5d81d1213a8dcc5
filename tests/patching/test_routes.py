"""Routes, chains, paths, knockouts and influence against plain runs, one per cell."""

import pytest
import torch

from codi_lens import (
    Pair,
    UserError,
    Variant,
    knock_out,
    patch_iteratively,
    patch_paths,
    patch_positions,
    patch_routes,
)
from tests.laws import plain

UNEQUAL = Pair(0, Variant("one plus two plus 3?", 6), Variant("12 plus 3?", 15))  # in length
PAIRS = [UNEQUAL, Pair(1, Variant("5 plus 6?", 991234), Variant("5 plus 7?", 9955))]
HOOKS = {"k": ("hook_k",), "v": ("hook_v",), "kv": ("hook_k", "hook_v")}


def exchanged(codi, route, steps, layers, base, ran):
    """Edits and held thoughts of one route, the values being those of a run."""
    latents = codi.config.num_latents
    edits, feed = [], {}
    for step in steps:
        if step + 1 < latents and route in ("state", "all"):
            edits.append(("hook_embed", step + 1, None, ran.thoughts[step + 1]))
        if step + 1 < latents and route in HOOKS:
            feed[step + 1] = base.thoughts[step + 1]
        for hook in HOOKS.get("kv" if route == "all" else route, ()):
            for layer in layers:
                name = f"blocks.{layer}.attn.{hook}"
                edits.append((name, step, None, ran.at(name, step)))
    return {"edits": edits, "feed": feed}


def test_routes_equal_one_plain_run_per_cell(codi):
    sweep = patch_routes(codi, PAIRS, window=1)
    latents, layers = codi.config.num_latents, range(codi.model.cfg.n_layers)
    for p, pair in enumerate(PAIRS):
        base, source = (
            plain.unpatched(codi, question) for question in plain.sides(pair, "denoise")
        )
        for row, route, own in (
            ("state", "state", layers),
            ("k", "k", layers),
            ("v", "v", layers),
            ("kv", "kv", layers),
            ("all", "all", layers),
            ("v, layer 1", "v", [1]),
        ):
            for effect, steps in (("latent", [1]), ("tail", range(1, latents))):
                changes = exchanged(codi, route, steps, own, base, source)
                expected = plain.metrics(codi, pair, **changes)
                plain.same(sweep, p, expected, effect=effect, row=row, column=1)
    assert (
        sweep.values("logit_diff", row="state", column=latents - 1, effect="latent").isnan().all()
    )


def test_keys_and_values_for_the_answer_alone_leave_all_thoughts_as_they_are(codi):
    """The plain way: all heads and MLPs of the latents held, so that only what comes behind them sees the exchange."""
    sweep = patch_routes(codi, PAIRS)
    latents = range(codi.config.num_latents)
    for p, pair in enumerate(PAIRS):
        base, source = (
            plain.unpatched(codi, question) for question in plain.sides(pair, "denoise")
        )
        for effect, steps in (("latent", [1]), ("tail", latents[1:])):
            edits = exchanged(codi, "kv", steps, range(codi.model.cfg.n_layers), base, source)[
                "edits"
            ]
            changes = {
                "edits": plain.held(codi, base, latents) + edits,
                "feed": dict(enumerate(base.thoughts)),
            }
            expected = plain.metrics(codi, pair, **changes)
            plain.same(sweep, p, expected, effect=effect, row="kv to the answer", column=1)


def test_all_routes_with_the_patched_runs_values_are_the_total_effect(grouped):
    routes = patch_routes(grouped, PAIRS, values="patched")
    thoughts = patch_positions(grouped, PAIRS, layers=["thought"])
    for name in ("logit_diff", "kl_divergence"):
        found = routes.values(name, effect="latent", row="all")
        expected = thoughts.values(name, effect="total", row="thought")
        torch.testing.assert_close(found, expected, atol=1e-9, rtol=0)


def test_controls_of_routes_put_something_else_in(grouped):
    pairs = [*PAIRS, Pair(2, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43))]
    sweep = patch_routes(grouped, pairs, controls=True)
    assert sweep.axes["effect"] == ("latent", "tail", "identity", "resample", "random_direction")
    assert sweep.values("l2_difference", effect="identity").nan_to_num().max() < 1e-10
    for p, pair in enumerate(pairs):
        (donor,) = [q for q in pairs if q.pair_id == sweep.outcomes[p].donor]
        base, lent = (plain.unpatched(grouped, q.question) for q in (pair.corrupted, donor.clean))
        changes = exchanged(grouped, "all", [0], range(3), base, lent)
        plain.same(
            sweep,
            p,
            plain.metrics(grouped, pair, **changes),
            effect="resample",
            row="all",
            column=0,
        )


def test_chains_from_every_start_equal_one_plain_run_after_the_other(codi):
    sweep = patch_iteratively(codi, PAIRS, starts=None, layers=[0, "1.1"], positions=["bot", 0, 2])
    assert sweep.axes["effect"][-2:] == ("chained from 0", "chained from 2")
    for row, (name, part) in (
        (0, ("blocks.0.hook_resid_post", None)),
        ("1.1", ("blocks.1.attn.hook_z", 1)),
    ):
        for effect, steps in (("chained", ["bot", 0, 2]), ("chained from 0", [0, 2])):
            base, source = plain.sides(UNEQUAL, "denoise")
            value = plain.unpatched(codi, source).at(name, steps[0], part)
            for k, step in enumerate(steps):
                edits = [(name, step, part, value)]
                expected = plain.metrics(codi, UNEQUAL, edits=edits)
                column = k + 3 - len(steps)
                plain.same(sweep, 0, expected, effect=effect, row=row, column=column)
                if k + 1 < len(steps):
                    value = plain.run(codi, base, edits=edits).at(name, steps[k + 1], part)
    first = patch_iteratively(codi, PAIRS, layers=[0, "1.1"], positions=["bot", 0, 2])
    assert torch.equal(first.values("kl_divergence"), sweep.values("kl_divergence")[:, :4]) or (
        (first.values("kl_divergence") - sweep.values("kl_divergence")[:, :4])
        .abs()
        .nan_to_num()
        .max()
        < 1e-12
    )


def test_routes_that_lead_nowhere_are_zeros(grouped):
    sweep = patch_routes(grouped, PAIRS, window=1, answer_start="eot")
    moved = sweep.values("l2_difference").amax(0)
    there = ~moved.isnan()
    assert not moved[sweep.zeros & there].gt(1e-12).any()
    assert moved[there & ~sweep.zeros].min() > 1e-9


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: patch_paths(c, PAIRS, senders=["0.9@1"]), "no head '0.9'"),
        (lambda c: patch_paths(c, PAIRS, senders=["0.1"]), "no place '0.1'; give 2.1@3"),
        (lambda c: patch_paths(c, PAIRS, senders=["0.1@7"]), "no step 7; this run has"),
        (
            lambda c: patch_paths(c, PAIRS, receivers=["0.1.k@1"]),
            "no receiver '0.1.k@1'; give 2.1.q@3",
        ),
        (lambda c: patch_paths(c, PAIRS, effect="indirect"), "it has effect 'total' or 'direct'"),
        (lambda c: patch_routes(c, PAIRS, positions=["bot"]), "give latents here"),
        (
            lambda c: patch_routes(c, PAIRS, values="mine"),
            "no values 'mine'; known are source, patched",
        ),
        (lambda c: knock_out(c, PAIRS, layers=["0.1"]), "whole layers are exchanged here"),
        (lambda c: patch_iteratively(c, PAIRS, starts=[9]), "no start 9; known are 0, 1, 2"),
    ],
)
def test_what_cannot_be_asked(grouped, ask, message):
    with pytest.raises(UserError, match=message):
        ask(grouped)
