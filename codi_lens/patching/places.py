"""Places: what a row of a map stands for, as hook points of the model.

A row is a label. With the site of a sweep it says which activation of a step is meant:

* 3: layer 3, at the sweep's site; "thought": the vector that is fed.
* "3.1": head 1 of layer 3 (z, q or pattern); "3.kv0": a key/value head (k, v, or both); "3.n17": a neuron (mlp_post).
* a hook point by its name, such as "blocks.3.ln2.hook_normalized".

`rows_at` spells out a site's rows: a layer's heads one by one. Keys and queries are those before rotation, so that
prompts of unequal length can be patched into each other.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from codi_lens.errors import UserError
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Site, Step
from codi_lens.patching.settings import THOUGHT, Label

KV = "kv"


@dataclass(frozen=True)
class SiteKind:
    """A site by name: the hook points in a layer, and what of them a row is."""

    hooks: tuple[str, ...]
    parts: str = ""
    """"": the whole layer; "head", "kv" (key/value heads): each a row; "n" (neurons): those that are listed."""


SITE_KINDS = {
    "resid_pre": SiteKind(("hook_resid_pre",)),
    "resid_mid": SiteKind(("hook_resid_mid",)),
    "resid_post": SiteKind(("hook_resid_post",)),
    "attn_out": SiteKind(("hook_attn_out",)),
    "mlp_out": SiteKind(("hook_mlp_out",)),
    "z": SiteKind(("attn.hook_z",), "head"),
    "q": SiteKind(("attn.hook_q",), "head"),
    "k": SiteKind(("attn.hook_k",), KV),
    "v": SiteKind(("attn.hook_v",), KV),
    "kv": SiteKind(("attn.hook_k", "attn.hook_v"), KV),
    "pattern": SiteKind(("attn.hook_pattern",), "head"),
    "mlp_post": SiteKind(("mlp.hook_post",), "n"),
    THOUGHT: SiteKind(()),
}
SPELLED_OUT = ("head", KV)
"""Parts that are rows of their own wherever a layer is named; of neurons there are too many."""
DEFAULT_SITE = {"head": "z", KV: KV, "n": "mlp_post"}
"""Where the sweep's site has no such parts, the site that a row of this form is at."""
ROW = re.compile(r"(\d+)\.(kv|n|)(\d+)")


FORMS = {
    "": "layer",
    "head": "layer.head",
    KV: "layer.key/value head",
    "n": "layer.neuron",
    "name": "hook point",
}
"""What rows of one form are, in words."""


def form_of(row: Label) -> str:
    """What a row's label names: a layer (""), or a part of one, or a hook point ("name")."""
    if isinstance(row, int) or row == THOUGHT:
        return ""
    found = ROW.fullmatch(row)
    return (found[2] or "head") if found else "name"


def kind_of(site: str) -> SiteKind:
    """The kind of a site; one that has no name of its own is a hook point in every layer, such as mlp.hook_pre."""
    return SITE_KINDS.get(site, SiteKind((site,)))


def sites_of(site: str, row: Label, step: Step) -> tuple[Site, ...]:
    """The hook points, and the parts of them, that a row stands for at a step.

    Raises:
        UserError: a label that is none.
    """
    if row == THOUGHT:
        return (Site("hook_embed", step),)
    if isinstance(row, int):
        return tuple(Site(f"blocks.{row}.{hook}", step) for hook in kind_of(site).hooks)
    if found := ROW.fullmatch(row):
        layer, _, part = found.groups()
        form = form_of(row)
        kind = SITE_KINDS[site if kind_of(site).parts == form else DEFAULT_SITE[form]]
        return tuple(Site(f"blocks.{layer}.{hook}", step, int(part)) for hook in kind.hooks)
    return (Site(row, step),)


def rows_at(site: str, labels: Sequence[Label], codi: HookedCodi) -> tuple[Label, ...]:
    """The rows of a map at a site: a layer is spelled out into its heads where the site has heads.

    The thought has one row, whatever the layers.
    """
    if site == THOUGHT:
        return tuple(
            dict.fromkeys(THOUGHT if isinstance(label, int) else label for label in labels)
        )
    parts = kind_of(site).parts
    form = KV if parts == KV else ""
    rows: list[Label] = []
    for label in labels:
        if parts in SPELLED_OUT and isinstance(label, int):
            rows += [f"{label}.{form}{part}" for part in range(sizes_of(codi)[parts])]
        else:
            rows.append(label)
    return tuple(rows)


def sizes_of(codi: HookedCodi) -> dict[str, int]:
    """How many parts of each form a layer has."""
    cfg = codi.model.cfg
    return {"head": cfg.n_heads, KV: cfg.n_key_value_heads or cfg.n_heads, "n": cfg.d_mlp or 0}


def check_row(row: Label, codi: HookedCodi) -> None:
    """Checks that the model has what a row names.

    Raises:
        UserError: it does not; says what there is.
    """
    cfg = codi.model.cfg
    layers = f"layers are 0 to {cfg.n_layers - 1}"
    if isinstance(row, int):
        if not 0 <= row < cfg.n_layers:
            raise UserError(f"no layer {row}; {layers}")
        return
    if found := ROW.fullmatch(row):
        layer, _, part = found.groups()
        form = form_of(row)
        what, size = FORMS[form].removeprefix("layer."), sizes_of(codi)[form]
        if int(layer) >= cfg.n_layers or int(part) >= size:
            raise UserError(f"no {what} {row!r}; {layers}, {what}s 0 to {size - 1}")
        return
    if row != THOUGHT and row not in codi.loop.backend.hook_names:
        raise UserError(
            f"no place {row!r}; give layers ({layers}), {THOUGHT}, heads such as 0.1, key/value heads such as "
            "0.kv1, neurons such as 0.n17, or a hook point's name such as blocks.0.ln2.hook_normalized"
        )


def served_heads(codi: HookedCodi) -> int:
    """How many heads a key/value head serves."""
    sizes = sizes_of(codi)
    return sizes["head"] // sizes[KV]
