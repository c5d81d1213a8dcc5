"""Routes, chains, paths, knockouts and influence against plain runs, one per cell."""

import pytest
import torch

from codi_lens import (
    Pair,
    UserError,
    Variant,
    knock_out,
    measure_influence,
    patch_iteratively,
    patch_paths,
    patch_positions,
    patch_routes,
)
from tests.laws import plain
from tests.patching.test_places import MODELS, load

UNEQUAL = Pair(0, Variant("one plus two plus 3?", 6), Variant("12 plus 3?", 15))  # in length
PAIRS = [UNEQUAL, Pair(1, Variant("5 plus 6?", 991234), Variant("5 plus 7?", 9955))]
HOOKS = {"k": ("hook_k",), "v": ("hook_v",), "kv": ("hook_k", "hook_v")}


@pytest.fixture(scope="module", params=list(MODELS))
def codi(request, tmp_path_factory):
    return load(MODELS[request.param], tmp_path_factory.mktemp("routes"))


@pytest.fixture(scope="module")
def grouped(tmp_path_factory):
    return load({"kv_heads": 2}, tmp_path_factory.mktemp("grouped"), layers=3)


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
        base, source = (plain.run(codi, question) for question in plain.sides(pair, "denoise"))
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
        base, source = (plain.run(codi, question) for question in plain.sides(pair, "denoise"))
        for effect, steps in (("latent", [1]), ("tail", latents[1:])):
            edits = exchanged(codi, "kv", steps, range(codi.model.cfg.n_layers), base, source)[
                "edits"
            ]
            changes = {
                "edits": held(codi, base, latents) + edits,
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
        base, lent = (plain.run(grouped, q.question) for q in (pair.corrupted, donor.clean))
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
            value = plain.run(codi, source).at(name, steps[0], part)
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


def held(codi, base, steps):
    """Every head and MLP at some steps, as the base run has them."""
    return [
        (f"blocks.{layer}.{hook}", step, None, base.at(f"blocks.{layer}.{hook}", step))
        for step in steps
        for layer in range(codi.model.cfg.n_layers)
        for hook in ("attn.hook_z", "hook_mlp_out")
    ]


SENDERS = {
    "0.1@1": ("blocks.0.attn.hook_z", 1, 1),
    "mlp0@1": ("blocks.0.hook_mlp_out", 1, None),
    "1.2@0": ("blocks.1.attn.hook_z", 0, 2),
}
RECEIVERS = {
    "1.2.q@1": ("blocks.1.attn.hook_q", 1, 2),
    "1.kv0.v@1": ("blocks.1.attn.hook_v", 1, 0),
    "mlp1@1": ("blocks.1.ln2.hook_normalized", 1, None),
    "1@1": ("blocks.1.hook_resid_post", 1, None),
    "thought@1": ("hook_embed", 1, None),
    "thought@2": ("hook_embed", 2, None),
}
REACHED = {
    "0.1@1": {"1.2.q@1", "1.kv0.v@1", "mlp1@1", "1@1", "thought@2"},
    "mlp0@1": {"1.2.q@1", "1.kv0.v@1", "mlp1@1", "1@1", "thought@2"},
    "1.2@0": {"thought@1"},
}


def test_paths_equal_plain_runs(codi, request):
    effect = ("total", "direct")[list(MODELS).index(request.node.callspec.params["codi"]) % 2]
    receivers = [*RECEIVERS, "1.2.v@1>2"]
    sweep = patch_paths(codi, PAIRS, senders=list(SENDERS), receivers=receivers, effect=effect)
    group = codi.model.cfg.n_heads // (codi.model.cfg.n_key_value_heads or codi.model.cfg.n_heads)
    for p, pair in enumerate(PAIRS[:1]):
        base_question, source_question = plain.sides(pair, "denoise")
        base, source = (plain.run(codi, question) for question in (base_question, source_question))
        all_held = dict(enumerate(base.thoughts))
        then = all_held if effect == "direct" else {}
        for label, (name, step, part) in SENDERS.items():
            own = [(name, step, part, source.at(name, step, part))]
            frozen = held(codi, base, [s for s in (0, 1, 2) if s >= step])
            a = plain.run(codi, base_question, edits=frozen + own, feed=all_held)
            for into, (hook, at, head) in RECEIVERS.items():
                value = a.thoughts[at] if hook == "hook_embed" else a.at(hook, at, head)
                edits = [(hook, at, head, value)] if into in REACHED[label] else []
                expected = plain.metrics(codi, pair, edits=edits, feed=then)
                plain.same(sweep, p, expected, row=label, column=into)
            if label != "1.2@0":
                key = ("blocks.1.attn.hook_v", 1, 2 // group)
                seen = [(*key, a.at(*key))]
                c = plain.run(codi, base_question, edits=frozen + seen, feed=all_held)
                edits = [("blocks.1.attn.hook_z", 2, 2, c.at("blocks.1.attn.hook_z", 2, 2))]
                expected = plain.metrics(codi, pair, edits=edits, feed=then)
                plain.same(sweep, p, expected, row=label, column="1.2.v@1>2")
            whole = plain.metrics(codi, pair, edits=own, feed=then)
            plain.same(sweep, p, whole, row=label, column="all paths")


def test_zeros_of_paths_are_those_that_nothing_passes(grouped):
    sweep = patch_paths(
        grouped, PAIRS, positions=["bot", 0, 2, "eot"], receivers=[*RECEIVERS, "logits"]
    )
    moved = sweep.values("l2_difference", effect="total").amax(0)
    zeros = sweep.structural_zeros()
    assert zeros.any()
    assert moved[zeros].max() < 1e-12
    assert not moved[:, :-1][zeros[:, :-1]].any(), "exactly"
    assert moved[~zeros].min() > 1e-9


def test_from_the_last_layers_mlp_to_the_logits_is_the_direct_effect(grouped):
    paths = patch_paths(
        grouped, PAIRS, senders=["mlp2@eot"], receivers=["logits"], answer_start="eot"
    )
    direct = patch_positions(
        grouped,
        PAIRS,
        site="mlp_out",
        layers=[2],
        positions=["eot"],
        effect="direct",
        answer_start="eot",
    )
    found = paths.values("logit_diff", column="logits").flatten()
    torch.testing.assert_close(found, direct.values("logit_diff").flatten(), atol=1e-9, rtol=0)
    assert paths.values("l2_difference", column="logits").min() > 1e-3


def test_knockouts_equal_plain_runs_with_blocked_scores(codi):
    sweep = knock_out(codi, PAIRS, window=1, direction="noise")
    latents = tuple(range(codi.config.num_latents))
    layers = range(codi.model.cfg.n_layers)
    cases = [
        ("all layers", "bot", "question", [("bot", ["prompt"], layers)]),
        ("all layers", 2, 0, [(2, [0], layers)]),
        ("layer 1", 1, "question+bot", [(1, ["prompt", "bot"], [1])]),
        ("all layers", "answer", "latents", [("answer", latents, layers)]),
        ("layer 0", "eot", "bot", [("eot", ["bot"], [0])]),
        ("all layers", "eot+answer", 1, [("eot", [1], layers), ("answer", [1], layers)]),
    ]
    for p, pair in enumerate(PAIRS):
        for effect, row, column, blocked in cases:
            expected = plain.metrics(codi, pair, "noise", blocked=blocked)
            plain.same(sweep, p, expected, effect=effect, row=row, column=column)


@pytest.mark.parametrize("answer_start", ["stem", "eot"])
def test_zeros_of_knockouts_are_those_that_move_nothing(grouped, answer_start):
    sweep = knock_out(grouped, PAIRS, window=1, answer_start=answer_start)
    moved, zeros = sweep.values("l2_difference").amax(0), sweep.zeros
    there = ~moved.isnan()
    assert (zeros & there).any()
    assert not (zeros & ~there).any()
    assert moved[zeros].max() < 1e-12
    assert moved[there & ~zeros].min() > 1e-9


def test_routes_that_lead_nowhere_are_zeros(grouped):
    sweep = patch_routes(grouped, PAIRS, window=1, answer_start="eot")
    moved = sweep.values("l2_difference").amax(0)
    there = ~moved.isnan()
    assert not moved[sweep.zeros & there].gt(1e-12).any()
    assert moved[there & ~sweep.zeros].min() > 1e-9


def test_cells_of_knockouts_are_there_where_something_comes_before(grouped):
    sweep = knock_out(grouped, PAIRS)
    there = ~sweep.values("kl_divergence").isnan().all(0)[0]
    columns = sweep.axes["column"]
    assert there[0].tolist() == [column in ("question", "question+bot") for column in columns]
    assert there[-1].all()


def test_without_question_and_thoughts_the_answer_is_what_the_model_says_of_neither(grouped):
    """Two questions that differ everywhere are answered alike, once nothing of them is seen."""
    from codi_lens.model.knockouts import Knockout
    from codi_lens.patching.engine import feed_eot, run_batch
    from codi_lens.patching.schedule import Run

    questions = ["12 plus 30?", "5 plus 7?"]
    keys = ("prompt", "bot", 0, 1, 2)
    blind = tuple(Knockout((query,), keys, (0, 1, 2)) for query in ("eot", "answer"))
    tokens = grouped.tokens.stem()
    for knockouts, alike in ((blind, True), ((), False)):
        runs = [Run(i, knockouts=knockouts) for i in range(2)]
        done = run_batch(grouped, questions, runs, 3)
        final = feed_eot(grouped, done, [tokens] * len(done.state.mask)).final
        logits = grouped.loop.unembed(final[list(done.batch_index)])
        assert (float((logits[0] - logits[1]).abs().max()) < 1e-9) == alike


def test_influence_is_what_later_thoughts_become(codi):
    sweep = measure_influence(codi, PAIRS, intervention="zero")
    model, latents = codi.model, codi.config.num_latents
    for p, pair in enumerate(PAIRS):
        base = plain.run(codi, pair.clean.question)
        edits = [("hook_embed", 0, None, torch.zeros_like(base.thoughts[0]))]
        ran = plain.run(codi, pair.clean.question, edits=edits)
        for j in range(1, latents):
            new, old = ran.thoughts[j], base.thoughts[j]
            lens = [
                model.unembed(final)[..., :].log_softmax(-1)
                for final in (ran.finals[j], base.finals[j])
            ]
            expected = {
                "thought_distance": 1 - torch.cosine_similarity(new, old, dim=0),
                "thought_change": (new - old).norm() / old.norm(),
                "thought_kl": (lens[0].exp() * (lens[0] - lens[1])).sum(),
            }
            plain.same(
                sweep,
                p,
                {k: float(v) for k, v in expected.items()},
                tuple(expected),
                row=0,
                column=j,
            )
        expected = plain.metrics(codi, pair, "noise", edits=edits)
        plain.same(sweep, p, expected, row=0, column="answer")
    assert sweep.values("thought_kl")[:, 0].isnan().triu(1).any()


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
