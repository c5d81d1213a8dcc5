"""Addresses in the latent loop, and hook functions to put there.

A TransformerLens hook function is `hook_fn(activation, hook) -> activation | None`. Inside the loop every
step is a forward pass of its own, so a hook needs an address: a hook point's name and a step. The
factories below make the common hook functions; all clone before they write.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from codi_lens.errors import UserError, whole_number

Step = int | Literal["prompt", "bot", "eot", "answer"]
"""A latent step (0 .. N-1) or a named one; `bot` is the prompt's last position, a pass of its own."""
NAMED_STEPS = ("prompt", "bot", "eot", "answer")
HookFn = Callable[..., Any]
Names = str | Callable[[str], bool]


class Site(NamedTuple):
    """Where a hook acts: a hook point (TransformerLens' name, or a filter on names) at a step."""

    name: Names
    step: Step | Sequence[Step] | None = None
    """None: at every step; a list: at each of them."""
    part: int | tuple[int, ...] | None = None
    """Which part of the axis behind the position's: a head, some neurons; None: all of it. For interventions: a
    hook function sees the whole activation."""


AddressedHook = tuple[Site | tuple[Names, Step | Sequence[Step] | None] | Names, HookFn]
"""(address, hook function); a bare name means every step, as in `HookedTransformer.run_with_hooks`."""


class HookNeverFired(UserError):
    """A requested hook was never called, so the run would silently not be the one asked for."""


class HookPlan:
    """The hooks of one run of the loop: checked at the start, counted, and required to have fired by the end.

    Args:
        hook_names: the model's hook points.
        fwd_hooks: (address, hook function), as `HookedCodi.run_with_hooks` takes them.
        num_latents: thoughts of the run.
        bwd_hooks: likewise; their functions get the gradient of the activation once it is computed.

    Raises:
        UserError: an unknown hook point, a step that this run does not have, or backward hooks where
            gradients are switched off.
    """

    def __init__(
        self,
        hook_names: Collection[str],
        fwd_hooks: Iterable[AddressedHook],
        num_latents: int,
        bwd_hooks: Iterable[AddressedHook] = (),
    ) -> None:
        self._fired: list[int] = []
        self._sites: list[tuple[Names, Step | None]] = []
        self._entries: list[tuple[Step | None, str, HookFn]] = []
        self._inside = False
        # Backward hooks come last, for the gradient of what the forward hooks leave.
        for hooks, backward in ((fwd_hooks, False), (bwd_hooks, True)):
            for address, function in hooks:
                if backward and not torch.is_grad_enabled():
                    raise UserError("bwd_hooks need gradients; run under torch.enable_grad()")
                for name, step in _addressed(address, num_latents):
                    self._sites.append((name, step))
                    self._add(matching(hook_names, name), step, function, backward)

    def _add(self, names: list[str], step: Step | None, function: HookFn, backward: bool) -> None:
        guarded = self._guarded(function, step)
        counted = self._counted(_on_gradient(guarded) if backward else guarded, len(self._fired))
        self._fired.append(0)
        self._entries += [(step, name, counted) for name in names]

    def at(self, step: Step) -> list[tuple[str, HookFn]]:
        """The (name, function) pairs that act at `step`, in the order given."""
        return [(name, fn) for where, name, fn in self._entries if where is None or where == step]

    def over(self, positions: Mapping[Step, slice]) -> list[tuple[str, HookFn]]:
        """The pairs that act in one pass over a whole sequence, each on the positions of its step alone.

        Raises:
            UserError: a hook on `hook_rot_k`, where a step of the loop sees earlier keys as well.
        """
        pairs = [
            (name, _on_positions(function, part))
            for step, part in positions.items()
            if part.start < part.stop
            for name, function in self.at(step)
        ]
        for name, _ in pairs:
            if name.endswith("hook_rot_k"):
                raise UserError(
                    f"a hook on {name!r} changes keys for one step alone, which one pass over the whole "
                    "sequence cannot do; use hook_k, or run_with_hooks"
                )
        return pairs

    def check_fired(self) -> None:
        """Raises HookNeverFired for any hook that was never called."""
        for (name, step), count in zip(self._sites, self._fired, strict=True):
            if count == 0:
                raise HookNeverFired(
                    f"the hook at {name!r}, step {step!r}, never fired: the hook point is "
                    "switched off in the model's config, or the run ended before that step"
                )

    def _counted(self, function: HookFn, index: int) -> HookFn:
        def counted(activation: Tensor, hook: Any) -> Tensor | None:
            if self._inside:
                return None  # a run that one of these hooks starts is a run of its own
            self._fired[index] += 1
            return function(activation, hook=hook)  # type: ignore[no-any-return]

        return counted

    def _guarded(self, function: HookFn, step: Step | None) -> HookFn:
        name = getattr(function, "__qualname__", repr(function))

        def guarded(activation: Tensor, hook: Any) -> Tensor | None:
            self._inside = True
            try:
                result = function(activation, hook=hook)
            except Exception as error:
                error.add_note(f"raised in the hook {name} at {hook.name!r}, step {step!r}")
                raise
            finally:
                self._inside = False
            if result is None:
                return None
            for what in ("shape", "dtype", "device"):
                found, expected = getattr(result, what, None), getattr(activation, what)
                if found != expected:
                    raise UserError(
                        f"the hook {name} at {hook.name!r}, step {step!r}, returned {what} {found}; "
                        f"expected {expected}, that of the activation (or None to leave it)"
                    )
            return result  # type: ignore[no-any-return]

        return guarded


def _addressed(address: Any, num_latents: int) -> list[tuple[Names, Step | None]]:
    """The (name, step) pairs that an address means."""
    bare = isinstance(address, str) or callable(address)
    name, steps, _ = Site(address) if bare else Site(*address)
    several = steps if isinstance(steps, list | tuple | range) and steps else [steps]
    return [(name, checked_step(step, num_latents)) for step in several]


def _on_gradient(function: HookFn) -> HookFn:
    """A forward hook that has `function` called with the gradient of the activation.

    Weights ask for no gradients, so where nothing before the hook does, the activation itself must.
    """

    def hook_fn(activation: Tensor, hook: Any) -> Tensor:
        if not activation.requires_grad:
            activation = activation.detach().requires_grad_()
        # A copy, so that hooks on one tensor under two names get the gradient in the order of the model.
        out = activation.clone()
        out.register_hook(functools.partial(function, hook=hook))
        return out

    return hook_fn


def _on_positions(function: HookFn, part: slice) -> HookFn:
    """A hook for a whole sequence whose function sees, and changes, what one step of the loop would see."""

    def hook_fn(activation: Tensor, hook: Any) -> Tensor | None:
        # A query attends to no later key, and at its step of the loop there is none yet.
        index = (..., part, slice(part.stop)) if by_query(hook.name) else (slice(None), part)
        changed = function(activation[index], hook=hook)
        if changed is None:
            return None
        out = activation.clone()
        out[index] = changed
        return out

    return hook_fn


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


def matching(hook_names: Collection[str], names: Names) -> list[str]:
    """The hook points that a name, or a filter on names, means.

    Raises:
        UserError: none.
    """
    if isinstance(names, str):
        found = [names] if names in hook_names else []
    else:
        found = [name for name in hook_names if names(name)]
    if not found:
        last = max(int(name.split(".")[1]) for name in hook_names if name.startswith("blocks."))
        raise UserError(
            f"no hook point matches {names!r}; names look like 'hook_embed', "
            f"'blocks.0.hook_resid_post' … 'blocks.{last}.attn.hook_z'"
        )
    return found


def foreign_hooks(model: nn.Module, projection: nn.Module | None) -> tuple[str, ...]:
    """Names of the modules on which somebody has left a forward hook, in order.

    Hooks of TransformerLens (`add_hook`, permanent ones too) and of torch alike. No run of this package leaves
    any behind.
    """
    roots = {"": model} | ({} if projection is None else {"projection": projection})
    return tuple(
        ".".join(filter(None, (root, name))) or type(part).__name__
        for root, module in roots.items()
        for name, part in module.named_modules()
        if part._forward_hooks or part._forward_pre_hooks or part._backward_hooks
    )


def capture(into: list[Tensor]) -> HookFn:
    """Appends a copy of the activation, as the hook point has it, at every firing."""

    def hook_fn(activation: Tensor, hook: Any) -> None:
        into.append(activation.clone())

    return hook_fn


def by_query(name: Names | None) -> bool:
    """Whether a hook point's activation is [batch, head, query_pos, key_pos]; all others are [batch, pos, …]."""
    return str(name).endswith(("hook_pattern", "hook_attn_scores"))


def _at_last_position(change: Callable[[Tensor], Tensor], rows: Sequence[int] | None) -> HookFn:
    """Changes the last position (of a pattern: the last query) of the given rows, in a copy."""

    def hook_fn(activation: Tensor, hook: Any) -> Tensor:
        out = activation.clone()
        chosen = slice(None) if rows is None else torch.as_tensor(rows, device=out.device)
        index = (chosen, slice(None), -1) if by_query(hook.name) else (chosen, -1)
        out[index] = change(out[index])
        return out

    return hook_fn


def _like(value: Any, now: Tensor) -> Tensor:
    """A value as wide as what it meets."""
    try:
        return torch.as_tensor(value).to(now).expand_as(now)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"the value of a hook does not fit {tuple(now.shape)}, what is there ({error})"
        ) from error


def replace(value: Any, rows: Sequence[int] | None = None) -> HookFn:
    """Sets the last position of the activation to `value` (broadcast to [rows, …]).

    Of an attention pattern or its scores that is the last query, [rows, head, key_pos].
    """
    return _at_last_position(lambda now: _like(value, now), rows)


def add(value: Any, rows: Sequence[int] | None = None) -> HookFn:
    """Adds `value` at the last position of the activation, as `replace` sets it (steering)."""
    return _at_last_position(lambda now: now + _like(value, now), rows)


def ablate(mean: Float[Tensor, "..."] | None = None) -> HookFn:
    """Sets the last position to `mean`, or to zero: mean ablation, zero ablation."""
    return replace(torch.zeros(()) if mean is None else mean)
