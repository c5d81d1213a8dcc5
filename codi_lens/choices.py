"""The words that experiments can be asked in, apart from the code that needs torch."""

from typing import Literal

RESIDUAL_SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
SITES = (*RESIDUAL_SITES, "z", "q", "k", "v", "kv", "pattern", "mlp_post", "thought")
"""Sites of a sweep (`patching.places`); any other is a hook point in a layer, by its name."""

INTERVENTIONS = ("source", "zero", "mean", "resample", "random", "steer")
"""What is put in, by name (`patching.replacements`)."""

EffectChoice = Literal["total", "direct", "indirect", "all"]
"""What happens after a patch (see `patching.effects`), or all three."""
EFFECTS = ("total", "direct", "indirect")
EFFECT_CHOICES = (*EFFECTS, "all")
CONTROLS = ("identity", "resample", "random_direction")
EARLIER_NAMES = {
    "regenerate": "total",
    "freeze": "direct",
    "thoughts": "indirect",
    "self": "identity",
    "donor": "resample",
    "noise": "random_direction",
}
"""What records of the first schema call effects and controls; the command line takes the first three too."""

RouteValues = Literal["source", "patched"]
ROUTE_VALUES = ("source", "patched")
"""Routes: the source run's activations, or those of the base run with the source's thought fed at the step."""

Direction = Literal["denoise", "noise"]
"""denoise: base = corrupted, source = clean; noise: the other way round."""
DIRECTIONS = ("denoise", "noise")

AnswerStart = Literal["stem", "eot"]
"""stem: the answer is read behind the forced stem; eot: everything is read at the last position before
the stem, as the first study did."""
ANSWER_STARTS = ("stem", "eot")

Filter = Literal["none", "competent", "latent-dependent"]
"""competent: both questions answered right; latent-dependent: and both wrong without thoughts."""
FILTERS = ("none", "competent", "latent-dependent")

Answers = Literal["none", "top", "all"]
"""Patched answers to decode: of no cell, of the five outlined ones, of every cell."""
ANSWERS = ("none", "top", "all")

WandbMode = Literal["off", "offline", "online"]
"""off: W&B is not even loaded; offline: written below the run's folder, for `wandb sync`; online: sent."""
WANDB_MODES = ("off", "offline", "online")
DTYPES = ("float32", "bfloat16", "float16", "float64")
"""In which a model can be."""
