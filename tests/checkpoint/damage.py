"""A checkpoint to break, and what must then be said."""

import pytest
import torch
from safetensors.torch import save_file

from codi_lens import HookedCodi
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, CheckpointError

LLAMA = "codi.base_model.model."


LAYER = LLAMA + "model.layers.1."


KINDS = {
    "embedding": LLAMA + "model.embed_tokens.weight",
    "head": LLAMA + "lm_head.weight",
    "attention norm": LAYER + "input_layernorm.weight",
    "mlp norm": LAYER + "post_attention_layernorm.weight",
    "final norm": LLAMA + "model.norm.weight",
    **{
        f"{target} {part}": f"{LAYER}{block}.{target}.{part}.weight"
        for block, target in (("self_attn", "k_proj"), ("mlp", "down_proj"))
        for part in ("base_layer", "lora_A.default", "lora_B.default")
    },
    "first adapter": LLAMA + "model.layers.0.self_attn.q_proj.lora_A.default.weight",
    **{key: key for key in ("prj.1.weight", "prj.1.bias", "prj.3.weight", "prj.3.bias")},
    "prj.ln.weight": "prj.ln.weight",
    "prj.ln.bias": "prj.ln.bias",
}


def save(folder, tensors, file_format="safetensors"):
    (folder / SAFETENSORS).unlink(missing_ok=True)
    if file_format == "bin":
        torch.save(tensors, folder / PICKLED)
        return folder / PICKLED
    save_file(tensors, folder / SAFETENSORS)
    return folder / SAFETENSORS


def refused(folder, *expected, error=CheckpointError):
    with pytest.raises(error) as caught:
        HookedCodi.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message
    for text in expected:
        assert str(text) in message
    return message
