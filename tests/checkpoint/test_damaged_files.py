"""Every way in which a checkpoint's tensors can be broken is one error that says what and where; none loads."""

import json

import pytest
import torch
from safetensors.torch import load_file

from codi_lens import HookedCodi
from codi_lens.checkpoint.tensor_files import SAFETENSORS, CheckpointError
from tests.checkpoint.damage import KINDS, LAYER, refused, save
from tests.models.tiny import TARGETS


def missing(tensors, key):
    del tensors[key]
    return "is missing"


def renamed(tensors, key):
    tensors[key + "_old"] = tensors.pop(key)
    return "is missing"


def transposed(tensors, key):
    shape = tensors[key].shape
    if shape == shape[::-1]:
        # A vector, or a square matrix, has the same shape either way.
        tensors[key] = tensors[key][None]
    else:
        tensors[key] = tensors[key].T.contiguous()
    return "has shape"


def wrong_dtype(tensors, key):
    tensors[key] = tensors[key].to(torch.int32)
    return "has dtype torch.int32"


def eight_bits(tensors, key):
    tensors[key] = tensors[key].to(torch.float8_e4m3fn)
    return "has dtype torch.float8_e4m3fn"


def not_a_number(tensors, key):
    tensors[key].view(-1)[-1] = float("nan")
    return "holds 1 NaN or infinite values"


def infinite(tensors, key):
    tensors[key].view(-1)[0] = -float("inf")
    return "holds 1 NaN or infinite values"


def shortened(tensors, key):
    tensors[key] = tensors[key][:-1].clone()
    return "has shape"


def scalar(tensors, key):
    tensors[key] = torch.tensor(1.0)
    return "has shape ()"


DAMAGES = (
    missing, renamed, transposed, wrong_dtype, eight_bits, not_a_number, infinite, shortened, scalar
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key(folder, kind, damage):
    key = KINDS[kind]
    tensors = load_file(folder / SAFETENSORS)
    found = damage(tensors, key)
    path = save(folder, tensors)
    if key.endswith("embed_tokens.weight") and damage in (shortened, transposed, scalar):
        refused(folder, path, "expected")
    else:
        refused(folder, path, f"key {key!r} {found}", "expected")


@pytest.mark.parametrize("damage", [missing, transposed, not_a_number])
def test_bin_is_checked_like_safetensors(folder, damage):
    key = KINDS["k_proj lora_A.default"]
    tensors = load_file(folder / SAFETENSORS)
    found = damage(tensors, key)
    refused(folder, save(folder, tensors, "bin"), f"key {key!r} {found}", "expected")


class TestAdapters:
    def test_for_a_target_that_does_not_exist(self, folder):
        tensors = load_file(folder / SAFETENSORS)
        key = LAYER + "self_attn.qk_proj.lora_A.default.weight"
        refused(folder, save(folder, tensors | {key: torch.ones(4, 32)}), key, "expected only")

    def test_for_a_layer_that_does_not_exist(self, folder):
        tensors = load_file(folder / SAFETENSORS)
        key = LAYER.replace("1", "2") + "self_attn.q_proj.lora_A.default.weight"
        refused(folder, save(folder, tensors | {key: torch.ones(4, 32)}), key, "expected only")

    def test_of_another_name_than_default(self, folder):
        tensors = {
            key.replace(".default.", ".second."): tensor
            for key, tensor in load_file(folder / SAFETENSORS).items()
        }
        refused(folder, save(folder, tensors), "lora_A.second", "expected")

    def test_a_target_dropped_in_one_layer(self, folder):
        """Without its adapter the linear has its plain name, as in a file that never had one there."""
        tensors = load_file(folder / SAFETENSORS)
        stem = LAYER + "mlp.up_proj"
        tensors[f"{stem}.weight"] = tensors.pop(f"{stem}.base_layer.weight")
        for part in "AB":
            del tensors[f"{stem}.lora_{part}.default.weight"]
        path = save(folder, tensors)
        refused(folder, path, "'up_proj' has adapters in 1 layers", "expected all 2", "layer 1")

    def test_all_adapters_of_the_mlp_gone(self, folder):
        """Consistent in itself; only what the checkpoint is known to have gives it away."""
        tensors = load_file(folder / SAFETENSORS)
        for key in [key for key in tensors if ".mlp." in key]:
            if "lora_" in key:
                del tensors[key]
            else:
                tensors[key.replace(".base_layer", "")] = tensors.pop(key)
        message = refused(folder, save(folder, tensors), "adapters found for", "expected")
        assert message.endswith(f"expected {sorted(TARGETS)}")

    def test_of_another_rank_in_one_place(self, folder):
        tensors = load_file(folder / SAFETENSORS)
        stem = LAYER + "self_attn.v_proj.lora_"
        tensors[stem + "A.default.weight"] = torch.ones(2, 32)
        tensors[stem + "B.default.weight"] = torch.ones(16, 2)
        refused(folder, save(folder, tensors), "(2, 32)", "expected (4, 32)")

    def test_none_at_all(self, folder):
        tensors = {
            key.replace(".base_layer", ""): tensor
            for key, tensor in load_file(folder / SAFETENSORS).items()
            if "lora_" not in key
        }
        refused(folder, save(folder, tensors), "no LoRA adapter found", "expected")


class TestProjection:
    @pytest.fixture
    def silent(self, folder):
        """The folder with a config that expects nothing of the projection."""
        path = folder / "codi_config.json"
        values = json.loads(path.read_text())
        del values["projection_dim"], values["projection_layer_norm"]
        path.write_text(json.dumps(values))
        return folder

    def test_of_the_wrong_width_names_the_tensor_that_is_out_of_line(self, silent):
        tensors = load_file(silent / SAFETENSORS)
        tensors["prj.1.weight"] = torch.ones(25, 32)
        message = refused(silent, save(silent, tensors), "'prj.1.weight' has shape (25, 32)")
        assert message.endswith("expected (24, 32)")

    def test_of_another_width_than_expected(self, folder):
        tensors = load_file(folder / SAFETENSORS)
        tensors |= {"prj.1.weight": torch.ones(25, 32), "prj.1.bias": torch.ones(25)}
        tensors["prj.3.weight"] = torch.ones(32, 25)
        refused(folder, save(folder, tensors), "prj.1.weight", "(25, 32)", "expected (24, 32)")

    def test_missing(self, silent):
        tensors = load_file(silent / SAFETENSORS)
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith("prj.")}
        refused(silent, save(silent, tensors), "key 'prj.1.weight' is missing")

    def test_without_its_layer_norm_where_one_is_expected(self, folder):
        tensors = load_file(folder / SAFETENSORS)
        tensors = {key: tensor for key, tensor in tensors.items() if ".ln." not in key}
        refused(folder, save(folder, tensors), "key 'prj.ln.weight' is missing")

    def test_there_although_there_is_to_be_none(self, folder):
        path = folder / "codi_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"has_projection": False}))
        refused(folder, "prj.* keys found; expected none")


class TestFloat16:
    def test_weights_beyond_its_range(self, folder):
        tensors = load_file(folder / SAFETENSORS)
        key = KINDS["final norm"]
        tensors[key] = tensors[key] * 1e6
        path = save(folder, tensors)
        HookedCodi.from_pretrained(folder, dtype=torch.float32)
        with pytest.raises(
            CheckpointError, match=r"norm.weight' reaches .*expected at most 65504"
        ) as e:
            HookedCodi.from_pretrained(folder, dtype=torch.float16)
        assert str(path) in str(e.value)
