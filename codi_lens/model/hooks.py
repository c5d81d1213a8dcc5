"""Addresses in the latent loop, and hook functions to put there.

A TransformerLens hook function is `hook_fn(activation, hook) -> activation | None`. Inside the loop every
step is a forward pass of its own, so a hook needs an address: a hook point's name and a step. The
factories below make the common hook functions; all clone before they write.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformer_lens import HookedTransformer

from codi_lens.errors import UserError, whole_number

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
    """A requested hook was never called, so the run would silently not be the one asked for."""


class HookPlan:
    """The hooks of one run of the loop: checked at the start, counted, and required to have fired by the end.

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
            site = Site(site.name, checked_step(site.step, num_latents))
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


def checked_step(step: Any, num_latents: int) -> Step | None:
    """The step that is meant; any kind of integer counts a latent.

    Raises:
        UserError: a step that a run with `num_latents` thoughts does not have.
    """
    if step is None or (isinstance(step, str) and step in NAMED_STEPS):
        return step  # type: ignore[return-value]
    latents = f"latent steps 0..{num_latents - 1}" if num_latents else "no latent step"
    known = f"this run has {', '.join(NAMED_STEPS)} and {latents}"
    try:
        latent = whole_number(step, "a latent step")
    except UserError as error:
        raise UserError(f"no step {step!r}; {known}") from error
    if latent >= num_latents:
        raise UserError(f"no step {step!r}; {known}")
    return latent


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


_LOCKS: WeakKeyDictionary[HookedTransformer, threading.RLock] = WeakKeyDictionary()
"""One per model: hooks hang on the model itself, so two threads' passes must not overlap."""


def lock_of(model: HookedTransformer) -> "threading.RLock":
    """The lock that a pass through the model holds; a hook may start a run of its own under it."""
    return _LOCKS.setdefault(model, threading.RLock())


@contextmanager
def attached(model: HookedTransformer, hooks: Sequence[tuple[str, HookFn]]) -> Iterator[None]:
    """`model.hooks(fwd_hooks=hooks)` for one thread at a time; on leaving, only these hooks are removed.

    TransformerLens would visit every hook point of the model, which takes as long as a small model's pass.
    """
    with lock_of(model):
        level = model.context_level + 1
        try:
            with model.hooks(fwd_hooks=list(hooks), reset_hooks_end=False):
                yield
        finally:
            for name, _ in hooks:
                model.hook_dict[name].remove_hooks(level=level)


def foreign_hooks(*modules: nn.Module | None) -> tuple[str, ...]:
    """Names of the (sub)modules on which somebody has left a forward hook, in order.

    Hooks of TransformerLens (`add_hook`, permanent ones too) and of torch alike. No run of this package leaves
    any behind.
    """
    return tuple(
        name or type(module).__name__
        for module in modules
        if module is not None
        for name, part in module.named_modules()
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
    )


def capture(into: list[Tensor]) -> HookFn:
    """Appends a copy of the activation, as the hook point has it, at every firing."""

    def hook_fn(activation: Tensor, hook: Any) -> None:
        into.append(activation.clone())

    return hook_fn


_BY_HEAD_AND_QUERY = ("hook_pattern", "hook_attn_scores")
"""Hook points whose activation is [batch, head, query_pos, key_pos]; all others have [batch, pos, …]."""


def _at_last_position(change: Callable[[Tensor], Tensor], rows: Sequence[int] | None) -> HookFn:
    """Changes the last position (of a pattern: the last query) of the given rows, in a copy."""

    def hook_fn(activation: Tensor, hook: Any) -> Tensor:
        out = activation.clone()
        chosen = slice(None) if rows is None else torch.as_tensor(rows, device=out.device)
        per_head = str(hook.name).endswith(_BY_HEAD_AND_QUERY)
        index = (chosen, slice(None), -1) if per_head else (chosen, -1)
        out[index] = change(out[index])
        return out

    return hook_fn


def replace(value: Float[Tensor, "..."], rows: Sequence[int] | None = None) -> HookFn:
    """Sets the last position of the activation to `value` (broadcast to [rows, …]).

    Of an attention pattern or its scores that is the last query, [rows, head, key_pos].
    """
    return _at_last_position(lambda now: value.to(now).expand_as(now), rows)


def add(value: Float[Tensor, "..."], rows: Sequence[int] | None = None) -> HookFn:
    """Adds `value` at the last position of the activation, as `replace` sets it (steering)."""
    return _at_last_position(lambda now: now + value.to(now), rows)


def ablate(mean: Float[Tensor, "..."] | None = None) -> HookFn:
    """Sets the last position to `mean`, or to zero: mean ablation, zero ablation."""
    return replace(torch.zeros(()) if mean is None else mean)
