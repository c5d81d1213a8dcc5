"""The official CODI checkpoints: the state dict of one module with `codi`, a base model inside two wrappers of
peft, and `prj`, the projection."""

from codi_lens.checkpoint.layouts.base import Layout

CODI = Layout(
    name="CODI",
    base="codi.base_model.model.",
    projection="prj.",
    # The layer norm has a name of its own or, in older files, is known by its place.
    projection_modules={"1": ("1",), "3": ("3",), "ln": ("ln", "4")},
    extra_tokens=3,
    leftovers=("rotary_emb.inv_freq",),
)
