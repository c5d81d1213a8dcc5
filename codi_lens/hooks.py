"""Addresses in the latent loop, and hook functions to put there.

A TransformerLens hook function is `hook_fn(activation, hook) -> activation | None`. Inside the loop every
step is a forward pass of its own, so a hook needs an address: a hook point's name and a step. The
factories below make the common hook functions; all clone before they write.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer

from codi_lens.errors import UserError

Step = int | Literal["prompt", "bot", "eot", "answer"]
"""A latent step (0 .. N-1) or a named one; `bot` is the prompt's last position, a pass of its own."""
NAMED_STEPS = ("prompt", "bot", "eot", "answer")
HookFn = Callable[..., Any]
Names = str | Callable[[str], bool]


class Site(NamedTuple):
    """Where a hook acts: a hook point (TransformerLens' name, or a filter on names) at a step."""

    name: Names
    step: Step | None = None
    """None: at every step."""


AddressedHook = tuple[Site | tuple[Names, Step | None] | Names, HookFn]
"""(address, hook function); a bare name means every step, as in `HookedTransformer.run_with_hooks`."""


class HookNeverFired(UserError):
    """A hook was asked for and never called, so its run would silently be another one."""


class HookPlan:
    """The hooks of one run of the loop: checked on entry, counted, and all to have fired at the end.

    Raises:
        UserError: an unknown hook point or a step that this run does not have.
    """

    def __init__(
        self, model: HookedTransformer, hooks: Iterable[AddressedHook], num_latents: int
    ) -> None:
        self.fired: list[int] = []
        self._sites: list[Site] = []
        self._entries: list[tuple[Step | None, str, HookFn]] = []
        self._inside = False
        for address, function in hooks:
            site = (
                Site(address) if isinstance(address, str) or callable(address) else Site(*address)
            )
            _check_step(site.step, num_latents)
            index = len(self._sites)
            self._sites.append(site)
            self.fired.append(0)
            for name in _matching(model, site.name):
                self._entries.append((site.step, name, self._counted(function, site, index)))

    def at(self, step: Step) -> list[tuple[str, HookFn]]:
        """The (name, function) pairs that act at `step`, in the order given."""
        return [(name, fn) for where, name, fn in self._entries if where is None or where == step]

    def check_fired(self) -> None:
        """Raises HookNeverFired for any hook that was never called."""
        for site, count in zip(self._sites, self.fired, strict=True):
            if count == 0:
                raise HookNeverFired(
                    f"the hook at {site.name!r}, step {site.step!r}, never fired: the hook point is "
                    "switched off in the model's config, or the run ended before that step"
                )

    def _counted(self, function: HookFn, site: Site, index: int) -> HookFn:
        name = getattr(function, "__qualname__", repr(function))

        def counted(activation: Tensor, hook: Any) -> Tensor | None:
            if self._inside:
                return None  # a run that one of these hooks starts is a run of its own
            self.fired[index] += 1
            self._inside = True
            try:
                result = function(activation, hook=hook)
            except Exception as error:
                error.add_note(f"raised in the hook {name} at {hook.name!r}, step {site.step!r}")
                raise
            finally:
                self._inside = False
            if result is None:
                return None
            for what in ("shape", "dtype", "device"):
                found, expected = getattr(result, what, None), getattr(activation, what)
                if found != expected:
                    raise UserError(
                        f"the hook {name} at {hook.name!r}, step {site.step!r}, returned {what} {found}; "
                        f"expected {expected}, that of the activation (or None to leave it)"
                    )
            return result  # type: ignore[no-any-return]

        return counted


def _check_step(step: Step | None, num_latents: int) -> None:
    named = isinstance(step, str) and step in NAMED_STEPS
    latent = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < num_latents
    if step is not None and not named and not latent:
        latents = f"latent steps 0..{num_latents - 1}" if num_latents else "no latent step"
        raise UserError(f"no step {step!r}; this run has {', '.join(NAMED_STEPS)} and {latents}")


def _matching(model: HookedTransformer, names: Names) -> list[str]:
    if isinstance(names, str):
        found = [names] if names in model.hook_dict else []
    else:
        found = [name for name in model.hook_dict if names(name)]
    if not found:
        raise UserError(
            f"no hook point matches {names!r}; names look like 'hook_embed', "
            f"'blocks.0.hook_resid_post' … 'blocks.{model.cfg.n_layers - 1}.attn.hook_z'"
        )
    return found


@contextmanager
def attached(model: HookedTransformer, hooks: Sequence[tuple[str, HookFn]]) -> Iterator[None]:
    """`model.hooks(fwd_hooks=hooks)`, which on leaving clears these hook points alone.

    TransformerLens visits every hook point of the model, which takes as long as a small model's pass.
    """
    level = model.context_level + 1
    try:
        with model.hooks(fwd_hooks=list(hooks), reset_hooks_end=False):
            yield
    finally:
        for name, _ in hooks:
            model.hook_dict[name].remove_hooks(level=level)


def capture(into: list[Tensor]) -> HookFn:
    """Appends a copy of the activation, as the hook point has it, at every firing."""

    def hook_fn(activation: Tensor, hook: Any) -> None:
        into.append(activation.clone())

    return hook_fn


def replace(value: Float[Tensor, "..."], rows: Sequence[int] | None = None) -> HookFn:
    """Sets the last position of the activation [batch, pos, …] to `value` (broadcast to [rows, …])."""

    def hook_fn(activation: Tensor, hook: Any) -> Tensor:
        out = activation.clone()
        chosen = slice(None) if rows is None else torch.as_tensor(rows, device=out.device)
        out[chosen, -1] = value.to(out)
        return out

    return hook_fn


def add(value: Float[Tensor, "..."], rows: Sequence[int] | None = None) -> HookFn:
    """Adds `value` at the last position of the activation [batch, pos, …] (steering)."""

    def hook_fn(activation: Tensor, hook: Any) -> Tensor:
        out = activation.clone()
        chosen = slice(None) if rows is None else torch.as_tensor(rows, device=out.device)
        out[chosen, -1] += value.to(out)
        return out

    return hook_fn


def ablate(mean: Float[Tensor, "..."] | None = None) -> HookFn:
    """Sets the last position to `mean`, or to zero: mean ablation, zero ablation."""
    return replace(torch.zeros(()) if mean is None else mean)
