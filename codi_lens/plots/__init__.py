"""Sweeps -> plotly figures. Nothing here shows or writes by itself, or changes a global template.

Maps have layers upward and steps of the loop rightward. Signed metrics have a diverging colour scale
centred on zero, the others a sequential one; both can be told apart by colour-blind readers.
"""

from codi_lens.plots.attention import attention, attention_to_tokens
from codi_lens.plots.attribution import attribution
from codi_lens.plots.bars import necessity_bars
from codi_lens.plots.circuit import circuit, faithfulness
from codi_lens.plots.differences import differences
from codi_lens.plots.figure import CONFIG, Figure, for_paper
from codi_lens.plots.gallery import gallery, scales, short_name
from codi_lens.plots.lenses import lens_divergence, lens_map
from codi_lens.plots.logit_attribution import logit_attribution
from codi_lens.plots.maps import (
    chained_minus_parallel,
    chains,
    controls,
    difference,
    effects,
    heatmap,
    heatmap_by_operand,
    heatmap_by_pair,
    heatmaps,
    side_by_side,
)
from codi_lens.plots.pages import (
    FORMATS,
    OFFLINE,
    page,
    plotly_script,
    show,
    to_image,
    write_images,
)
from codi_lens.plots.probes import probes
from codi_lens.plots.profiles import layer_profile, scatter, trajectories
from codi_lens.plots.scorecard import findings, scorecard
from codi_lens.plots.steering import steering
from codi_lens.plots.style import colour_scales, label, panel_title
from codi_lens.plots.subspaces import subspaces
from codi_lens.plots.tensors import imshow, ranks, top_tokens

__all__ = [
    "CONFIG",
    "FORMATS",
    "OFFLINE",
    "Figure",
    "attention",
    "attention_to_tokens",
    "attribution",
    "chained_minus_parallel",
    "chains",
    "circuit",
    "colour_scales",
    "controls",
    "difference",
    "differences",
    "effects",
    "faithfulness",
    "findings",
    "for_paper",
    "gallery",
    "heatmap",
    "heatmap_by_operand",
    "heatmap_by_pair",
    "heatmaps",
    "imshow",
    "label",
    "layer_profile",
    "lens_divergence",
    "lens_map",
    "logit_attribution",
    "necessity_bars",
    "page",
    "panel_title",
    "plotly_script",
    "probes",
    "ranks",
    "scales",
    "scatter",
    "scorecard",
    "short_name",
    "show",
    "side_by_side",
    "steering",
    "subspaces",
    "to_image",
    "top_tokens",
    "trajectories",
    "write_images",
]
