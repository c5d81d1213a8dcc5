"""Doors of the library that a notebook comes in by: what is odd works, or is refused by a text that helps."""

import numpy as np
import pytest
import torch

from codi_lens import (
    HookedCodi,
    Site,
    UserError,
    patch_iteratively,
    patch_layers,
    patch_positions,
)
from codi_lens.analysis.latent_ablation import measure_necessity
from codi_lens.model.hooks import ablate, add, capture, replace
from tests.models.runs import PAIRS
from tests.models.tiny import write_tiny

QUESTIONS = ["The answer is: 12 plus 34?", "one plus 2?", "5 plus 6 plus 7?"]
EXPERIMENTS = (patch_positions, patch_layers, patch_iteratively)
NAME = "blocks.1.hook_resid_post"
ROTATED = "blocks.1.attn.hook_rot_k"


# -- hook points of every shape ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["hook_pattern", "hook_attn_scores", "hook_z", "hook_k", "hook_q"])
@pytest.mark.parametrize("rows", [None, [1]])
def test_hook_functions_change_the_last_position_of_every_kind_of_activation(tiny, name, rows):
    name = f"blocks.1.attn.{name}"
    axis = 2 if name.endswith(("pattern", "scores")) else 1
    plain, changed = [], []
    site = Site(name, "prompt")
    tiny.run_with_hooks(QUESTIONS, [1, 2, 3], fwd_hooks=[(site, capture(plain))])
    for hook, value in ((replace(torch.tensor(0.25)), 0.25), (add(torch.ones(())), None)):
        own = (
            hook
            if rows is None
            else (replace if value else add)(torch.tensor(0.25 if value else 1.0), rows)
        )
        changed.clear()
        tiny.run_with_hooks(QUESTIONS, [1, 2, 3], fwd_hooks=[(site, own), (site, capture(changed))])
        expected = plain[0].clone()
        for row in range(3) if rows is None else rows:
            last = expected[row].select(axis - 1, -1)
            last.copy_(torch.full_like(last, value) if value else last + 1)
        assert torch.equal(changed[0], expected)


# -- lengths -------------------------------------------------------------------------------------

DOORS = {
    "generate": lambda codi, q: codi.generate(q),
    "think": lambda codi, q: codi.think([q], 60),
    "run_with_hooks": lambda codi, q: codi.run_with_hooks(q, 45, num_latents=60),
    "run_with_cache": lambda codi, q: codi.run_with_cache(q),
    "run_with_cache, answer": lambda codi, q: codi.run_with_cache(q, 45, num_latents=60),
    "decode_without_wrapper": lambda codi, q: codi.decode_without_wrapper([q]),
    "necessity": lambda codi, q: measure_necessity(codi, [q, "one?"], [1, 2]),
    "sweep": lambda codi, q: patch_positions(codi, PAIRS, num_latents=60),
}


@pytest.mark.parametrize("door", DOORS)
def test_what_the_context_has_no_room_for_is_refused_before_any_work(
    door, tmp_path_factory, monkeypatch
):
    folder = tmp_path_factory.mktemp("short")
    codi = HookedCodi.from_pretrained(write_tiny(folder, n_ctx=48))
    question = "one plus " * 10 + "2?"

    def works(*_, **__):
        raise AssertionError("the model was run")

    monkeypatch.setattr(codi.model, "forward", works)
    with pytest.raises(UserError, match=r"positions; the model's context has 48"):
        DOORS[door](codi, question)


# -- numbers, names, lists -----------------------------------------------------------------------


def test_integers_of_numpy_and_torch_are_integers_everywhere(tiny):
    two, one = np.int64(2), torch.tensor(1)
    plain = tiny.run_with_hooks(QUESTIONS[0], 45, num_latents=2, fwd_hooks=[((NAME, 1), ablate())])
    found = tiny.run_with_hooks(
        QUESTIONS[0], np.int32(45), num_latents=two, fwd_hooks=[((NAME, one), ablate())]
    )
    assert torch.equal(plain.logits, found.logits)
    options = {"layers": [1, 2], "positions": [0, 1], "num_latents": 2, "seed": 3, "batch_rows": 9}
    odd = {
        name: np.array(value) if isinstance(value, list) else np.int8(value)
        for name, value in options.items()
    }
    sweep, other = patch_positions(tiny, PAIRS, **options), patch_positions(tiny, PAIRS, **odd)
    assert sweep.settings == other.settings
    assert all(type(label) is int for label in (*other.settings.layers, other.settings.seed))
    assert torch.equal(sweep.values("logit_diff"), other.values("logit_diff"))


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda c: c.generate([]), "no questions"),
        (lambda c: c.read([]), "no questions"),
        (lambda c: c.generate(None), "the questions are None"),
        (lambda c: c.decode(c.think("one?", 1), -1), "max_new_tokens is -1; it must be a whole"),
        (lambda c: c.decode_without_wrapper("one?", "abc"), "max_new_tokens is 'abc'; it must be"),
        (lambda c: c.run_with_hooks("one?", b"5"), "answer b'5' has no plain"),
        (lambda c: c.run_with_hooks("one?", {5: 1}), "answer {5: 1} has no plain"),
        (lambda c: type(c).from_pretrained(None), "no model None: give"),
        (lambda c: type(c).from_pretrained(""), "no model '': give"),
        (
            lambda c: c.run_with_hooks("one?", 5, fwd_hooks=[(NAME, replace(torch.zeros(7)))]),
            "the value of a hook does not fit",
        ),
        (lambda c: c.run_with_cache([]), "no questions"),
        (lambda c: c.think([], 1), "no questions"),
        (lambda c: c.generate([5]), "a question is 5; it must be a text"),
        (
            lambda c: c.generate("one?", max_new_tokens=1.5),
            "max_new_tokens is 1.5; it must be a whole",
        ),
        (lambda c: c.generate("one?", num_latents=True), "num_latents is True; it must be a whole"),
        (lambda c: c.run_with_hooks("one?", True), "answer True has no plain spelling"),
        (
            lambda c: c.run_with_hooks("one?", 1, fwd_hooks=[((NAME, True), ablate())]),
            "no step True",
        ),
        (
            lambda c: c.run_with_hooks("one?", 1, fwd_hooks=[((NAME, [0, 3]), ablate())]),
            r"no step 3; this run has prompt, bot, eot, answer and latent steps 0..2",
        ),
        (
            lambda c: c.run_with_hooks("one?", 1, fwd_hooks=[((NAME, []), ablate())]),
            r"no step \[\]; this run has prompt",
        ),
        (
            lambda c: c.run_with_cache("one?", 1, names_filter=["hook_embed", "hook_embedding"]),
            "no hook point matches 'hook_embedding'",
        ),
        (
            lambda c: c.run_with_cache("one?", 1, fwd_hooks=[(ROTATED, ablate())]),
            "use hook_k, or run_with_hooks",
        ),
        (lambda c: c.to_str_tokens(["one?"]), r"the question is \['one\?'\]; give one text"),
        (
            lambda c: torch.no_grad()(c.run_with_hooks)("one?", 1, bwd_hooks=[(NAME, ablate())]),
            "bwd_hooks need gradients",
        ),
        (lambda c: patch_positions(c, PAIRS[0]), "pairs is Pair; it must be a list"),
        (lambda c: patch_positions(c, ["one?"]), "pairs holds 'one\\?'"),
        (
            lambda c: patch_positions(c, PAIRS, effect="freze"),
            "no effect 'freze'; known are total, direct",
        ),
        (
            lambda c: patch_positions(c, PAIRS, laters=[1]),
            "no option 'laters' of patch_positions; known are codi, pairs, layers",
        ),
        (
            lambda c: patch_positions(c, PAIRS, layers=2),
            "layers 2: a list is needed; give different numbers",
        ),
        (
            lambda c: patch_positions(c, PAIRS, layers=[1.5]),
            r"layers \[1.5\]: give different numbers from 0 to 2",
        ),
        (
            lambda c: patch_positions(c, PAIRS, layers=[-1]),
            r"layers \[-1\]: give different numbers from 0 to 2",
        ),
        (lambda c: patch_positions(c, PAIRS, positions="bot"), "positions 'bot': a list is needed"),
        (
            lambda c: patch_positions(c, PAIRS, batch_rows=0),
            "batch_rows is 0; it must be a whole number, 1 or",
        ),
        (
            lambda c: patch_positions(c, PAIRS, min_gap="1"),
            "min_gap is '1'; it must be a number of logits",
        ),
        (
            lambda c: patch_positions(c, PAIRS, controls="all"),
            "controls is 'all'; it must be True or False",
        ),
        (
            lambda c: patch_iteratively(c, PAIRS, controls=True),
            "no option '(controls|effect)' of patch_iteratively; known are codi, pairs, layers",
        ),
        (
            lambda c: patch_iteratively(c, PAIRS, effect="all"),
            "no option '(controls|effect)' of patch_iteratively; known are codi, pairs, layers",
        ),
        (
            lambda c: patch_iteratively(c, PAIRS, positions=[1, 0]),
            r"in the order of the run, \[0, 1\]",
        ),
        (lambda c: setattr(c, "model", c.model), "cannot be replaced"),
        (lambda c: setattr(c, "projection", None), "cannot be replaced"),
        (lambda c: setattr(c, "loop", c.loop), "the loop of a HookedCodi cannot be replaced"),
        (lambda c: setattr(c.loop, "projection", None), "the projection of a LatentLoop cannot"),
        (
            lambda c: setattr(c.loop, "backend", c.loop.backend),
            "the backend of a LatentLoop cannot",
        ),
        (lambda c: setattr(c.loop.backend, "model", c.model), "model of a HookedBackend cannot"),
        (lambda c: c.to("gpu"), "no device 'gpu' here"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_can(tiny, ask, message):
    with pytest.raises(UserError, match=message):
        ask(tiny)


def test_a_sweep_knows_its_metrics_axes_and_labels(tiny):
    sweep = patch_positions(tiny, PAIRS, controls=True)
    for metric, where, message in (
        ("recovry", {}, "no metric 'recovry' in this sweep; known are kl_divergence"),
        (
            "recovery",
            {"varient": "donor"},
            "no axis 'varient' in this sweep; known are effect, row, column, layer, position",
        ),
        ("recovery", {"effect": "doner"}, "no effect 'doner' in this sweep"),
    ):
        with pytest.raises(UserError, match=message):
            sweep.values(metric, **where)
    with pytest.raises(
        UserError, match="no effect 'freeze' in this sweep; known are total, identity"
    ):
        sweep.structural_zeros("freeze")


def test_a_model_moves_with_all_its_parts(tiny_folder):
    moved = HookedCodi.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    plain = HookedCodi.from_pretrained(tiny_folder, dtype=torch.float64)
    for part in ("model", "projection"):
        rounded = getattr(moved, part).parameters()
        for own, other in zip(getattr(plain, part).parameters(), rounded, strict=True):
            own.copy_(other)
    moved = moved.to("torch.float64", "cpu")
    assert moved.cfg.dtype == torch.float64
    found, expected = (codi.run_with_hooks(QUESTIONS[0], 45).logits for codi in (moved, plain))
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
