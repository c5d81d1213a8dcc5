"""A family of base models and a family of checkpoints, added from within a test: no file of the library knows them."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.architectures import ARCHITECTURES, LLAMA
from codi_lens.checkpoint.architectures.llama import Llama
from codi_lens.checkpoint.layouts import CODI, LAYOUTS, Layout
from codi_lens.checkpoint.tensor_files import SAFETENSORS, CheckpointError
from tests.models.tiny import write_tiny

QUESTION, ANSWER = "one plus two?", 36


class AlpacaConfig(LlamaConfig):
    model_type = "alpaca"


class AlpacaForCausalLM(LlamaForCausalLM):
    """A LLaMA whose layers have another name, and whose embedding is twice what is stored."""

    config_class = AlpacaConfig

    def __init__(self, config):
        super().__init__(config)
        self.model.herd = self.model.layers
        del self.model.layers


class Alpaca(Llama):
    def hooked_weights(self, model, cfg):
        model.model.layers = model.model.herd
        weights = super().hooked_weights(model, cfg)
        del model.model.layers
        return weights | {"embed.W_E": 2 * weights["embed.W_E"]}


ALPACA = Alpaca(
    **vars(LLAMA)
    | {
        "model_type": "alpaca",
        "config_class": AlpacaConfig,
        "model_class": AlpacaForCausalLM,
        "layers": "model.herd.",
    }
)
NESTED = Layout(
    name="Nested",
    base="student.lm.",
    projection="student.to_thought.",
    projection_modules={"1": ("first",), "3": ("second",), "ln": ("norm",)},
    family="CODI",
)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "alpaca", ALPACA)
    monkeypatch.setattr("codi_lens.checkpoint.layouts.LAYOUTS", [*LAYOUTS, NESTED])


@pytest.fixture
def folder(tmp_path):
    """A LLaMA in the official layout, and the same weights as an alpaca in the other."""
    write_tiny(tmp_path / "llama", tied=False)
    write_tiny(tmp_path / "alpaca", tied=False)
    path = tmp_path / "alpaca" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "alpaca"}))
    names = {
        CODI.base: NESTED.base,
        "prj.1.": "student.to_thought.first.",
        "prj.3.": "student.to_thought.second.",
        "prj.ln.": "student.to_thought.norm.",
        ".layers.": ".herd.",
    }
    tensors = {}
    for key, tensor in load_file(tmp_path / "llama" / SAFETENSORS).items():
        for official, other in names.items():
            key = key.replace(official, other)
        tensors[key] = tensor / 2 if "embed_tokens" in key else tensor
    save_file(tensors, tmp_path / "alpaca" / SAFETENSORS)
    return tmp_path


def test_a_new_family_in_a_new_layout_loads_and_runs(registered, folder):
    llama, alpaca = (
        HookedCodi.from_pretrained(folder / name, dtype=torch.float64)
        for name in ("llama", "alpaca")
    )
    assert alpaca.load_report.claimed == llama.load_report.claimed
    found, expected = (codi.run_with_hooks(QUESTION, ANSWER) for codi in (alpaca, llama))
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-12, rtol=0)
    torch.testing.assert_close(found.thoughts, expected.thoughts, atol=1e-12, rtol=0)


def test_what_is_written_in_a_layout_is_read_in_it(registered, tmp_path):
    codi, other = (
        HookedCodi.from_pretrained(write_tiny(tmp_path / layout.name, layout=layout))
        for layout in (CODI, NESTED)
    )
    found, expected = (c.run_with_hooks(QUESTION, ANSWER).logits for c in (other, codi))
    assert torch.equal(found, expected)


def test_every_key_is_accounted_for_in_a_new_layout_too(registered, folder):
    path = folder / "alpaca" / SAFETENSORS
    tensors = load_file(path)
    save_file(tensors | {"prj.1.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"'prj.1.weight' is not part .* student\.lm\."):
        HookedCodi.from_pretrained(folder / "alpaca")
    del tensors["student.to_thought.second.bias"]
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=r"'student.to_thought.second.bias' is missing"):
        HookedCodi.from_pretrained(folder / "alpaca")


def test_what_no_registry_knows_is_refused_with_what_each_needs(folder, monkeypatch):
    with pytest.raises(UserError, match="'model_type' is 'alpaca'; it must be 'llama' or"):
        HookedCodi.from_pretrained(folder / "alpaca")
    monkeypatch.setitem(ARCHITECTURES, "alpaca", ALPACA)
    other = replace(CODI, name="Other", base="o.", projection="p.")
    monkeypatch.setattr("codi_lens.checkpoint.layouts.LAYOUTS", [CODI, other])
    with pytest.raises(
        CheckpointError,
        match=r"keys such as 'student.lm.lm_head.weight'.* \(CODI: codi\..* and prj\.\*; Other: o\.\* and "
        r"p\.\*\); nearest is Other",
    ):
        HookedCodi.from_pretrained(folder / "alpaca")
