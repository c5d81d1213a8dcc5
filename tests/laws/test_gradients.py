"""Gradients through the latent loop: hooks put in a tensor that requires them, autograd does the rest."""

import pytest
import torch

from codi_lens import Site
from codi_lens.model.hooks import replace

QUESTION = "The answer is: 12 plus 34?"
CLEAN, CORRUPTED = 45, 46  # single tokens behind the same stem


def logit_diff(codi, hooks):
    """logit(clean) − logit(corrupted) where the number is predicted."""
    run = codi.run_with_hooks(QUESTION, CLEAN, fwd_hooks=hooks)
    clean, corrupted = (codi.tokens.answer(answer)[-1] for answer in (CLEAN, CORRUPTED))
    number = len(codi.tokens.answer(CLEAN)) - 1
    return run.logits[0, number, clean] - run.logits[0, number, corrupted]


def fed(codi, step):
    return codi.run_with_hooks(QUESTION, CLEAN).thoughts[0, step].detach()


def test_the_weights_are_frozen_and_grad_mode_is_the_callers(tiny):
    assert not any(parameter.requires_grad for parameter in tiny.model.parameters())
    assert not any(parameter.requires_grad for parameter in tiny.projection.parameters())
    seen = []

    def look(activation, hook):
        seen.append(torch.is_grad_enabled())

    for mode in (torch.enable_grad(), torch.no_grad()):
        with mode:
            tiny.run_with_hooks(QUESTION, CLEAN, fwd_hooks=[(Site("hook_embed", 1), look)])
    assert seen == [True, False]
    assert torch.is_grad_enabled()
    assert not tiny.run_with_hooks(QUESTION, CLEAN).logits.requires_grad


@pytest.mark.parametrize(
    "site",
    [Site("hook_embed", 0), Site("hook_embed", 2), Site("blocks.1.hook_resid_post", 1)],
    ids=str,
)
def test_the_gradient_with_respect_to_a_latent_is_that_of_finite_differences(tiny, site):
    """Central differences in float64 along every fourth dimension; the loop lies in between."""
    kept = []
    tiny.run_with_hooks(
        QUESTION, CLEAN, fwd_hooks=[(site, lambda activation, hook: kept.append(activation))]
    )
    value = kept[0][0, -1].detach().clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(logit_diff(tiny, [(site, replace(value))]), value)
    assert gradient.abs().max() > 1e-3
    step = 1e-5
    with torch.no_grad():
        for i in range(0, 32, 4):
            nudge = torch.zeros(32, dtype=torch.float64)
            nudge[i] = step
            above, below = (
                logit_diff(tiny, [(site, replace(value + sign * nudge))]) for sign in (1, -1)
            )
            estimate = float(above - below) / (2 * step)
            assert float(gradient[i]) == pytest.approx(estimate, rel=1e-5, abs=1e-6), i


def test_the_gradient_passes_through_every_later_thought(tiny):
    """With the later thoughts held, what is left is another gradient: the loop is part of the path."""
    value = fed(tiny, 0).clone().requires_grad_()
    free = [(Site("hook_embed", 0), replace(value))]
    held = [*free, *((Site("hook_embed", k), replace(fed(tiny, k))) for k in (1, 2))]
    total, direct = (
        torch.autograd.grad(logit_diff(tiny, hooks), value)[0] for hooks in (free, held)
    )
    assert (total - direct).abs().max() > 1e-3


def test_steering_along_the_gradient_raises_the_logit_difference(tiny):
    value = fed(tiny, 1).clone().requires_grad_()
    before = logit_diff(tiny, [(Site("hook_embed", 1), replace(value))])
    (gradient,) = torch.autograd.grad(before, value)
    moved = value.detach() + 1e-5 * gradient / gradient.norm()
    after = logit_diff(tiny, [(Site("hook_embed", 1), replace(moved))])
    gained = float(after - before.detach())
    assert gained == pytest.approx(1e-5 * float(gradient.norm()), rel=0.01)
