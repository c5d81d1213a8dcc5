"""A checkpoint that is written is one that loads, in the official layout."""

import json

import pytest
import torch
from safetensors import safe_open

from codi_lens import UserError
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, SHARD_INDEX
from codi_lens.checkpoint.write import write_checkpoint
from tests.checkpoint.test_merge import EMBEDDING, HEAD, agreement
from tests.models.tiny import tiny_config, write_tiny


class TestWriteCheckpoint:
    def test_completes_the_config_with_what_the_tensors_have(self, tmp_path):
        write_tiny(tmp_path, rank=6, targets=("q_proj", "v_proj"), layer_norm=False)
        values = json.loads((tmp_path / CONFIG_NAME).read_text())
        assert values["lora_rank"] == 6
        assert values["lora_targets"] == ["q_proj", "v_proj"]
        assert (values["projection_dim"], values["projection_layer_norm"]) == (24, False)

    def test_shards_have_an_index_and_no_single_file(self, tmp_path):
        write_tiny(tmp_path, max_shard_size="40KB")
        index = json.loads((tmp_path / SHARD_INDEX).read_text())
        assert len(set(index["weight_map"].values())) > 2
        assert not (tmp_path / SAFETENSORS).exists()

    def test_one_shard_may_be_enough(self, tmp_path):
        write_tiny(tmp_path, max_shard_size="1GB", spread=0.15)
        assert (tmp_path / SHARD_INDEX).exists()
        assert max(agreement(tmp_path, torch.float32)) < 1e-5

    def test_layout_is_the_official_one(self, tmp_path):
        write_tiny(tmp_path, layers=1)
        with safe_open(tmp_path / SAFETENSORS, "pt") as handle:
            keys = set(handle.keys())
        stem = "codi.base_model.model.model.layers.0"
        assert {
            EMBEDDING,
            f"{stem}.self_attn.q_proj.base_layer.weight",
            f"{stem}.mlp.down_proj.lora_A.default.weight",
            f"{stem}.mlp.down_proj.lora_B.default.weight",
            f"{stem}.input_layernorm.weight",
            "codi.base_model.model.model.norm.weight",
            "prj.1.weight",
            "prj.3.bias",
            "prj.ln.weight",
        } <= keys
        assert HEAD not in keys

    def test_bin_holds_both_tied_tensors(self, tmp_path):
        write_tiny(tmp_path, file_format="bin", base_dtype=torch.bfloat16)
        tensors = torch.load(tmp_path / PICKLED, weights_only=True)
        assert torch.equal(tensors[EMBEDDING], tensors[HEAD])
        assert tensors[EMBEDDING].dtype == torch.bfloat16
        assert tensors["prj.1.weight"].dtype == torch.float32

    def test_refuses_a_second_format_in_one_folder(self, tmp_path):
        write_tiny(tmp_path)
        with pytest.raises(UserError, match=r"holds model.safetensors already"):
            write_tiny(tmp_path, file_format="bin")

    def test_refuses_a_config_that_denies_the_projection(self, tmp_path):
        with pytest.raises(UserError, match="has_projection is True; it must be False"):
            write_checkpoint(
                tmp_path, base=None, adapters={}, projection=None, config=tiny_config()
            )
