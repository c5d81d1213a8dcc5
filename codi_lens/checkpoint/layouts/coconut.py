"""Coconut (Hao et al., arXiv 2412.06769), plain or trained by SIM-CoT: the state dict of a module around the base
model that feeds final states back as they are. Its tokens are start-latent, end-latent and latent, of
which the last is never fed."""

from codi_lens.checkpoint.layouts.base import Layout
from codi_lens.checkpoint.layouts.codi import DECODER

COCONUT = Layout(
    name="Coconut",
    family="Coconut",
    base="base_causallm.",
    projection=None,
    adapted=False,
    embedding_names=("embedding.weight",),
    auxiliary={"expainable_llm.": DECODER},  # spelt so
    extra_tokens=("bot", "eot", "latent"),
    question_suffix="\n",
    eos_switch=False,
    forbids_eot=False,
)
