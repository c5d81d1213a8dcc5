"""Path patching (Wang et al., arXiv 2211.00593; Goldowsky-Dill et al., arXiv 2304.05969): from where to where?"""

import re
from dataclasses import dataclass, replace

import torch

from codi_lens.choices import EFFECTS
from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site, Step, checked_step
from codi_lens.patching.experiments.base import Experiment
from codi_lens.patching.interventions import from_run
from codi_lens.patching.places import ROW, check_row, served_heads, sites_of
from codi_lens.patching.plan import BASE, NONE, Given, Place, Plan, Runs, grid_of, patches
from codi_lens.patching.schedule import Patch, Run, steps_of
from codi_lens.patching.settings import Label, Settings
from codi_lens.patching.structural_zeros import height

ALL_PATHS = "all paths"
FORM = "2.1@3 (head 1 of layer 2 at latent 3), mlp2@3, or another place and its step"
INTO = "2.1.q@3 (the query of a head), 2.kv0.k@3, 2.kv0.v@3 (as all later steps read them), " + (
    "2.1.k@3>5, 2.1.v@3>5 (as one head reads them at one step), mlp2@3, thought@4, logits"
)
HELD = ("attn.hook_z", "hook_mlp_out")
"""What could relay a change within a step, or to a later one."""


@dataclass(frozen=True)
class Receiver:
    """Where a path ends: what is read there, and for keys and values in whose eyes."""

    site: Site
    height: int
    """The height of the stream that it reads; see `patching.structural_zeros`."""
    seen_by: Site | None = None
    """The head's output through which alone the key or value is read; None: all that read it."""


class Paths(Experiment):
    """Through which receiver does a sender act?

    For a sender s and a receiver r: run A is the base run with s exchanged, every attention head and MLP after it
    that could relay the change held at the base run's, thoughts held too; what r then reads (a head's query, key or
    value, an MLP's input, the next thought, the logits) goes into run B, the base run, everything after it free (total)
    or the thoughts held (direct). The column "all paths" is the sender's whole effect. The sum over receivers equals
    it to first order only. A sender that comes after its receiver gives exactly 0.
    """

    name = "path_patching"
    title = "path patching"
    heading = "Path patching"
    across = "receiver"
    cells_key = "path_results"
    cell_names = ("sender", "receiver")
    uses = frozenset({"senders", "receivers", "intervention", "strength"})

    def subject(self, settings: Settings) -> str:
        return f"{settings.intervention} put in at the sender"

    def down(self, settings: Settings) -> str:
        return "sender"

    def check(self, settings: Settings) -> None:
        super().check(settings)
        if settings.effect not in EFFECTS[:2] or settings.controls:
            raise UserError(
                f"path patching with effect={settings.effect!r}, controls={settings.controls}: it has effect "
                "'total' or 'direct' and no controls; patch_positions has both"
            )

    def filled(self, codi: HookedCodi, settings: Settings) -> Settings:
        """All heads and MLPs at the positions are senders, the next thoughts and the logits receivers, if none are said."""
        cfg, names = codi.model.cfg, codi.loop.backend.hook_names
        outputs = [
            f"{layer}.{head}" for layer in range(cfg.n_layers) for head in range(cfg.n_heads)
        ]
        outputs += [f"mlp{layer}" for layer in range(cfg.n_layers)]
        every = [f"{place}@{step}" for step in settings.positions for place in outputs]
        thoughts = [f"thought@{step}" for step in range(1, settings.num_latents)]
        filled = replace(
            settings,
            senders=settings.senders or tuple(every),
            receivers=settings.receivers or (*thoughts, "logits"),
        )
        for label in filled.senders:
            row, _ = split(label, settings, FORM)
            check_row(mlp_hook(row, "hook_mlp_out"), codi)
        for label in filled.receivers:
            receiver(label, filled, cfg.n_layers, served_heads(codi), names)
        return filled

    def effects(self, settings: Settings) -> tuple[Label, ...]:
        return (settings.effect,)

    def rows(self, settings: Settings) -> tuple[Label, ...]:
        return settings.senders

    def columns(self, settings: Settings) -> tuple[Label, ...]:
        return (*settings.receivers, ALL_PATHS)

    def places(self, settings: Settings) -> tuple[Place, ...]:
        return tuple(sender(label, settings) for label in settings.senders)

    def plan(self, settings: Settings, given: Given) -> Plan:
        grid = grid_of(settings)
        runs = Runs(grid, given.with_donor)
        thoughts = BASE if settings.effect == EFFECTS[1] else None
        into = [
            receiver(label, settings, given.num_layers, given.served_heads)
            for label in settings.receivers
        ]
        cells = torch.full((1, len(settings.senders), len(into) + 1), NONE)
        for i, place in enumerate(self.places(settings)):
            own = patches([place], given.source)
            from_step = place[0].step
            needed = [one for one in into if reaches(place, one)]
            if needed:
                last = max(order(settings, one) for one in needed)
                held = holding(settings, given.num_layers, from_step, last)
                alone = runs.add(Run(BASE, held + own, BASE))
            for j, one in enumerate(into):
                if one not in needed:
                    cells[0, i, j] = BASE  # no path: nothing changes
                    continue
                read = alone
                if one.seen_by is not None:
                    seen = Patch(one.site, from_run(alone))
                    read = runs.add(Run(BASE, (*held, seen), BASE))
                patch = Patch(one.seen_by or one.site, from_run(read))
                cells[0, i, j] = runs.add(Run(BASE, (patch,), thoughts))
            cells[0, i, -1] = runs.add(Run(BASE, own, thoughts))
        return Plan(tuple(runs.all), cells, grid)


def split(label: str, settings: Settings, form: str) -> tuple[Label, Step]:
    """A place and its step, such as "2.1" and 3.

    Raises:
        UserError: not of this form, or a step that the run does not have.
    """
    row, at, step = str(label).partition("@")
    if not at or not row:
        raise UserError(f"no place {label!r}; give {form}")
    found = checked_step(int(step) if step.isdecimal() else step, settings.num_latents)
    if found not in steps_of(settings.num_latents):
        raise UserError(f"no place {label!r}: its step is {step}; give bot, eot or a latent")
    return (int(row) if row.isdecimal() else row), found


def mlp_hook(row: Label, hook: str) -> Label:
    """The hook point of an MLP, where the row is one, such as "mlp2"."""
    found = re.fullmatch(r"mlp(\d+)", str(row))
    return f"blocks.{found[1]}.{hook}" if found else row


def sender(label: str, settings: Settings) -> Place:
    """The sites of a sender."""
    row, step = split(label, settings, FORM)
    return sites_of(settings.site, mlp_hook(row, "hook_mlp_out"), step)


def receiver(
    label: str, settings: Settings, num_layers: int, heads_served: int, names: object = None
) -> Receiver:
    """What a receiver's label means; `names`: the model's hook points, to check it.

    Raises:
        UserError: no receiver of the model.
    """
    if label == "logits":
        return Receiver(Site("ln_final.hook_normalized", "eot"), 4 * num_layers)
    where, _, by = label.partition(">")
    row, step = split(where, settings, INTO)
    if row == "thought" and isinstance(step, int):
        return Receiver(Site("hook_embed", step), 0)
    if found := re.fullmatch(r"mlp(\d+)", str(row)):
        return Receiver(Site(f"blocks.{found[1]}.ln2.hook_normalized", step), 4 * int(found[1]) + 2)
    place, _, what = str(row).rpartition(".")
    form = ROW.fullmatch(place)
    if form and what in ("q", "k", "v") and (form[2] == "kv") == (what != "q" and not by):
        layer, part = form[1], int(form[3])
        site = Site(f"blocks.{layer}.attn.hook_{what}", step, part)
        if not by:
            return Receiver(site, 4 * int(layer))
        site = site._replace(part=part // heads_served)
        reader = split(f"{place}@{by}", settings, INTO)[1]
        return Receiver(site, 4 * int(layer), Site(f"blocks.{layer}.attn.hook_z", reader, part))
    sites = sites_of(settings.site, row, step)
    if len(sites) > 1 or (names is not None and sites[0].name not in names):  # type: ignore[operator]
        raise UserError(
            f"no receiver {label!r}; give {INTO}, or a layer or hook point and its step"
        )
    return Receiver(sites[0], height(sites[0], num_layers))


def reaches(place: Place, one: Receiver) -> bool:
    """Whether something can pass from a sender to a receiver with nothing in between."""
    site, step = place[0], one.site.step
    if one.site.name == "hook_embed":
        before = "bot" if step == 0 else step - 1  # type: ignore[operator]
        return site.step == before
    return site.step == step and any(height(sent) <= one.height for sent in place)


def order(settings: Settings, one: Receiver) -> int:
    """The number of the step at which the last is read that leads to a receiver."""
    step = (one.seen_by or one.site).step
    return steps_of(settings.num_latents).index(step)


def holding(settings: Settings, num_layers: int, first: object, last: int) -> tuple[Patch, ...]:
    """All attention heads and MLPs held at the base run's, from a step to another."""
    steps = steps_of(settings.num_latents)
    return tuple(
        Patch(Site(f"blocks.{layer}.{hook}", step), from_run(BASE))
        for step in steps[steps.index(first) : last + 1]
        for layer in range(num_layers)
        for hook in HELD
    )
