"""Path patching against plain runs: a sender exchanged, all else held, and what a receiver then reads."""

import torch

from codi_lens import (
    patch_paths,
    patch_positions,
)
from tests.laws import plain
from tests.models.architectures import MODELS
from tests.patching.test_routes import PAIRS

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
        base, source = (
            plain.unpatched(codi, question) for question in (base_question, source_question)
        )
        all_held = dict(enumerate(base.thoughts))
        then = all_held if effect == "direct" else {}
        for label, (name, step, part) in SENDERS.items():
            own = [(name, step, part, source.at(name, step, part))]
            frozen = plain.held(codi, base, [s for s in (0, 1, 2) if s >= step])
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
