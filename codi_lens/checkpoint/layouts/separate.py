"""A model as transformers or peft saves it, with the projection in a file of its own, or without one.

Nobody has made a standard of these. `codi_lens.checkpoint.parts` puts the files together: a projection's keys
begin with `prj.`, an adapter's as peft writes them, and the base model's are plain.
"""

import re
from dataclasses import replace

from codi_lens.checkpoint.layouts.base import Layout

# A module in a list, such as `model.layers.0.`, but not one of what else may be beside it.
NUMBERED = re.compile(
    r"(?!(?:codi|base_causallm|base_model|prj|projector)\.)(?:[A-Za-z]\w*\.){1,2}\d+\.\w+\."
)

MERGED = Layout(
    name="merged model and projection",
    family="CODI",
    base="",
    projection="prj.",
    marks=NUMBERED,
    adapted=False,
)
PROJECTOR = replace(MERGED, name="merged model with a projector inside", projection="projector.")
ADAPTER = replace(
    MERGED,
    name="peft adapter and projection",
    adapted=True,
    adapters="base_model.model.",
)
PLAIN = replace(
    MERGED,
    name="language model",
    family="language model without thoughts",
    projection=None,
    extra_tokens=(),
    begin=(),
    end=(),
    eos_switch=False,
    forbids_eot=False,
)
