"""The words that experiments can be asked in, apart from the code that needs torch."""

from typing import Literal

ResidSite = Literal["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"]
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")

Mode = Literal["regenerate", "freeze", "thoughts", "all"]
"""What happens after a patch: the variants that `plans` describes, or all three."""
EFFECTS = ("regenerate", "freeze", "thoughts")
MODES = (*EFFECTS, "all")
CONTROLS = ("self", "donor", "noise")

Direction = Literal["denoise", "noise"]
"""denoise: base = corrupted, source = clean; noise: the other way round."""
DIRECTIONS = ("denoise", "noise")

AnswerStart = Literal["stem", "eot"]
"""stem: the number is read behind the forced stem; eot: everything is read at the last position before
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
