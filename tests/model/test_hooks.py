"""Hooks of users: what goes wrong in them is named, and leaves the model as it was."""

from functools import partial

import pytest
import torch

from codi_lens import Site, UserError
from codi_lens.model.hooks import ablate, capture

QUESTION = "The answer is: 12 plus 34?"
STEPS = ("prompt", "bot", 0, 2, "eot", "answer")
NAME = "blocks.1.hook_resid_post"


def hooks_left(codi):
    return sum(len(p.fwd_hooks) + len(p._forward_hooks) for p in codi.model.hook_dict.values())


def cut_short(activation, hook):
    return activation[..., :4]


def other_dtype(activation, hook):
    return activation.float()


def other_device(activation, hook):
    return activation.to("meta")


def no_tensor(activation, hook):
    return "activation"


def raises(activation, hook):
    raise KeyError("broken on purpose")


def leaves_it(activation, hook):
    return None


BROKEN = {
    cut_short: (UserError, r"returned shape torch.Size\(.*\); expected torch.Size\(.*32\]\)"),
    other_dtype: (UserError, r"returned dtype torch.float32; expected torch.float64"),
    other_device: (UserError, r"returned device meta; expected cpu"),
    no_tensor: (UserError, r"returned shape None; expected torch.Size"),
    raises: (KeyError, "broken on purpose"),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("function", BROKEN, ids=lambda function: function.__name__)
def test_a_broken_hook_is_named_with_its_site_and_leaves_nothing(tiny, function, step):
    first = tiny.run_with_hooks(QUESTION, 45)
    kind, message = BROKEN[function]
    with pytest.raises(kind, match=message) as caught:
        tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(Site(NAME, step), function)])
    said = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert f"the hook {function.__name__} at '{NAME}', step {step!r}" in said
    assert hooks_left(tiny) == 0
    assert torch.equal(tiny.run_with_hooks(QUESTION, 45).logits, first.logits)


def test_hooks_without_a_name_of_their_own_are_shown(tiny):
    hook = (Site(NAME, 0), partial(cut_short))
    with pytest.raises(UserError, match=r"the hook functools.partial\(<function cut_short"):
        tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[hook])


def test_a_hook_that_returns_none_leaves_the_activation(tiny):
    plain = tiny.run_with_hooks(QUESTION, 45)
    hooks = [(Site(NAME, step), leaves_it) for step in STEPS]
    assert torch.equal(tiny.run_with_hooks(QUESTION, 45, fwd_hooks=hooks).logits, plain.logits)


def test_generate_leaves_nothing_either(tiny):
    text = tiny.generate(QUESTION)
    with pytest.raises(KeyError, match="on purpose"):
        tiny.generate(QUESTION, fwd_hooks=[(Site(NAME, 1), raises)])
    assert hooks_left(tiny) == 0
    assert tiny.generate(QUESTION) == text


def test_inside_the_context_of_another_hook_both_act_and_the_outer_stays(tiny):
    """TransformerLens' own context around a run: its hook sees every pass, and is still there after."""
    seen = []
    plain = tiny.run_with_hooks(QUESTION, 45)
    inner = [(Site(NAME, 1), ablate())]
    alone = tiny.run_with_hooks(QUESTION, 45, fwd_hooks=inner)
    with tiny.model.hooks(fwd_hooks=[(NAME, capture(seen))]):
        before = hooks_left(tiny)
        nested = tiny.run_with_hooks(QUESTION, 45, fwd_hooks=inner)
        passes = len(seen)
        with pytest.raises(KeyError):
            tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(Site(NAME, 1), raises)])
        assert hooks_left(tiny) == before > 0
        again = tiny.run_with_hooks(QUESTION, 45)
    assert passes == 7  # prompt, bot, three latents, eot, answer
    assert hooks_left(tiny) == 0
    assert torch.equal(nested.logits, alone.logits)
    assert torch.equal(again.logits, plain.logits)


def test_a_hook_that_runs_the_model_itself(tiny):
    """The run within sees the hooks around it only where it asks for them; the outer run goes on."""
    other = "one plus 2?"
    plain = tiny.run_with_hooks(other, 3)
    inner_runs = []

    def patch_from_another_run(activation, hook):
        kept = []
        inner_runs.append(tiny.run_with_hooks(other, 3, fwd_hooks=[(Site(NAME, 1), capture(kept))]))
        return kept[0]

    kept = []
    tiny.run_with_hooks(other, 3, fwd_hooks=[(Site(NAME, 1), capture(kept))])
    expected = tiny.run_with_hooks(
        QUESTION, 45, fwd_hooks=[(Site(NAME, 1), lambda activation, hook: kept[0])]
    )
    found = tiny.run_with_hooks(QUESTION, 45, fwd_hooks=[(Site(NAME, 1), patch_from_another_run)])
    assert len(inner_runs) == 1, "the hook around the inner run fired inside it"
    assert torch.equal(inner_runs[0].logits, plain.logits)
    assert torch.equal(found.logits, expected.logits)
    assert hooks_left(tiny) == 0
