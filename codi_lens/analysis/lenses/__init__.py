"""Lenses: what a state in the middle of the computation says, each beside what another question's state says.

* `logit`: the logit lens on layers, and on thoughts.
* `tuned`, `training`: the tuned lens, an affine map per layer that is trained to match the final distribution.
* `maps`: how readable known results are at every layer and step, with the control.
* `patchscope`: a state is put into another prompt, and the model speaks.
"""

from codi_lens.analysis.lenses.logit import (
    ThoughtLens,
    intermediate_ranks,
    logit_lens,
    steps_of,
    thought_lens,
    top_tokens,
)
from codi_lens.analysis.lenses.maps import Decoded, LensMap, lens_map
from codi_lens.analysis.lenses.patchscope import Said, patchscope, patchscope_map
from codi_lens.analysis.lenses.training import train_tuned_lens
from codi_lens.analysis.lenses.tuned import HeldOut, TunedLens

__all__ = [
    "Decoded",
    "HeldOut",
    "LensMap",
    "Said",
    "ThoughtLens",
    "TunedLens",
    "intermediate_ranks",
    "lens_map",
    "logit_lens",
    "patchscope",
    "patchscope_map",
    "steps_of",
    "thought_lens",
    "top_tokens",
    "train_tuned_lens",
]
