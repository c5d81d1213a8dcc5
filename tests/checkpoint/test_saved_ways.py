"""However a state dict was saved: prefixes, old formats and leftovers are rules that the report counts."""

import re

import pytest
import torch
from safetensors.torch import save_file

from codi_lens import HookedCodi
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, CheckpointError
from tests.checkpoint.test_merge import EMBEDDING, agreement, read_tensors
from tests.models.tiny import write_tiny


class TestHowFilesWereSaved:
    """By other programs and older versions; the numbers are the same, and the report says what was done."""

    @pytest.fixture
    def folder(self, tmp_path):
        return write_tiny(tmp_path, spread=0.15)

    def saved(self, folder, tensors, **options):
        """The largest difference from the tensors as they were, and the load report."""
        original = read_tensors(folder)
        (folder / SAFETENSORS).unlink()
        if options:
            torch.save(tensors, folder / PICKLED, **options)
        else:
            save_file(tensors, folder / SAFETENSORS)
        report = HookedCodi.from_pretrained(folder).load_report
        assert report.claimed == len(original)
        return max(agreement(folder, torch.float32, original)), report

    @pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module."])
    @pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": True}])
    def test_from_inside_a_wrapper(self, folder, wrapper, options):
        wrapped = {wrapper + key: tensor for key, tensor in read_tensors(folder).items()}
        difference, report = self.saved(folder, wrapped, **options)
        assert difference < 1e-5
        assert report.wrapper == wrapper
        assert f"{report.claimed}, {wrapper!r} taken off in front of each" in report.text()

    def test_a_prefix_of_some_keys_is_no_wrapper(self, folder):
        tensors = read_tensors(folder)
        tensors["module.prj.1.bias"] = tensors.pop("prj.1.bias")
        with pytest.raises(CheckpointError, match=r"'prj.1.bias' is missing.*'module.prj.1.bias'"):
            self.saved(folder, tensors)

    def test_as_a_pickle_from_before_torch_1_6(self, folder):
        old = {"_use_new_zipfile_serialization": False}
        difference, _ = self.saved(folder, read_tensors(folder), **old)
        assert difference < 1e-5

    def test_with_buffers_that_the_config_determines(self, folder):
        stem = EMBEDDING.removesuffix("embed_tokens.weight")
        keys = [f"{stem}layers.{layer}.self_attn.rotary_emb.inv_freq" for layer in range(3)]
        buffers = {key: torch.full((4,), torch.nan) for key in keys}
        difference, report = self.saved(folder, read_tensors(folder) | buffers)
        assert difference < 1e-5
        assert report.leftovers == {"rotary_emb.inv_freq": 3}
        assert "keys dropped     buffers rotary_emb.inv_freq 3" in report.text()

    def test_what_only_ends_like_such_a_buffer_is_foreign(self, folder):
        stem = EMBEDDING.removesuffix("embed_tokens.weight")
        for module in ("layers.7.self_attn.", "other.", "layers.0.other."):
            key = f"{stem}{module}rotary_emb.inv_freq"
            with pytest.raises(
                CheckpointError, match=f"{re.escape(key)}' is not part of the model"
            ):
                self.saved(folder, read_tensors(folder) | {key: torch.zeros(4)})
            (folder / SAFETENSORS).unlink()
            write_tiny(folder, spread=0.15)

    def test_one_stray_key_makes_no_other_layout(self, folder):
        with pytest.raises(CheckpointError, match=r"'codi\.foo\.bar' is not part of the model"):
            self.saved(folder, read_tensors(folder) | {"codi.foo.bar": torch.zeros(4)})

    def test_with_the_projection_s_layer_norm_unnamed(self, folder):
        tensors = {
            key.replace("prj.ln.", "prj.4."): tensor for key, tensor in read_tensors(folder).items()
        }
        difference, report = self.saved(folder, tensors)
        assert difference < 1e-5
        assert report.projection_layer_norm
