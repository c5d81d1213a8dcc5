"""CODI (Shen et al., arXiv 2502.21074) and SIM-CoT, whose auxiliary decoder serves training alone: the state
dict of one module with `codi`, the base model, and `prj`, the projection."""

import re
from dataclasses import replace

from codi_lens.checkpoint.layouts.base import Layout

DECODER = "SIM-CoT's auxiliary decoder"

CODI = Layout(
    name="CODI",
    family="CODI",
    # Inside two wrappers of peft.
    base="codi.base_model.model.",
    projection="prj.",
    auxiliary=dict.fromkeys(("decoder.", "pj_in.", "pj_out."), DECODER),
)
CODI_MERGED = replace(
    CODI,
    name="CODI without adapters",
    base="codi.",
    adapted=False,
    marks=re.compile(r"codi\.(?!base_model\.)"),
)
