"""Files and shards that are missing, torn or not what they say: one error, and no code of theirs is run."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi_lens import UserError
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, SHARD_INDEX
from tests.checkpoint.damage import LLAMA, refused, save
from tests.models.tiny import write_tiny


class TestFiles:
    @pytest.mark.parametrize("keep", [4, 100, 0.5, 0.999])
    @pytest.mark.parametrize("file_format", ["safetensors", "bin"])
    def test_truncated(self, folder, file_format, keep):
        path = save(folder, load_file(folder / SAFETENSORS), file_format)
        content = path.read_bytes()
        path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
        refused(folder, path, "expected")

    @pytest.mark.parametrize("name", [SAFETENSORS, PICKLED])
    def test_a_pointer_in_place_of_the_weights(self, folder, name):
        (folder / SAFETENSORS).unlink()
        (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        refused(folder, folder / name, "expected")

    def test_a_pickle_with_code_in_it_is_not_run(self, folder, tmp_path):
        (folder / SAFETENSORS).unlink()
        torch.save({"prj.1.weight": Payload(tmp_path / "ran")}, folder / PICKLED)
        refused(folder, folder / PICKLED, "expected", "weights_only")
        (folder / PICKLED).write_bytes(pickle.dumps(Payload(tmp_path / "ran")))
        refused(folder, folder / PICKLED, "expected", "weights_only")
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            ([torch.ones(1)], "holds list"),
            ({"state_dict": {"prj.1.weight": torch.ones(1)}}, "entry 'state_dict' is dict"),
            ({7: torch.ones(1)}, "entry 7 is Tensor"),
            ({"prj.1.weight": torch.eye(3).to_sparse()}, "key 'prj.1.weight' is sparse"),
        ],
    )
    def test_a_pickle_that_is_no_state_dict(self, folder, content, found):
        (folder / SAFETENSORS).unlink()
        torch.save(content, folder / PICKLED)
        refused(folder, folder / PICKLED, found, "expected")

    def test_no_weights(self, folder):
        (folder / SAFETENSORS).unlink()
        refused(folder, folder, "no weights", SAFETENSORS, PICKLED, error=UserError)

    def test_the_weights_of_a_plain_llama_where_thoughts_are_expected(self, folder):
        tensors = {
            key.removeprefix(LLAMA).replace(".base_layer", ""): tensor
            for key, tensor in load_file(folder / SAFETENSORS).items()
            if key.startswith(LLAMA) and "lora_" not in key
        }
        path = save(folder, tensors)
        expected = (path.with_name(CONFIG_NAME), "num_latents is 3", "no projection was found")
        refused(folder, *expected, error=UserError)

    def test_keys_of_no_layout(self, folder):
        tensors = {
            f"student.{key}": tensor for key, tensor in load_file(folder / SAFETENSORS).items()
        }
        path = save(folder, tensors)
        refused(
            folder,
            path,
            "keys such as 'student.codi",
            "nearest is CODI,",
            "Coconut: base_causallm.*",
        )

    def test_a_model_that_was_trained_without_adapters(self, folder):
        tensors = {
            key.replace("codi.base_model.model.", "codi.").replace(".base_layer", ""): tensor
            for key, tensor in load_file(folder / SAFETENSORS).items()
            if "lora_" not in key
        }
        path = save(folder, tensors)
        refused(folder, path, "adapters found for []; expected ['down_proj'")


class TestShards:
    @pytest.fixture
    def folder(self, tmp_path):
        return write_tiny(tmp_path, layers=2, max_shard_size="40KB")

    @pytest.fixture
    def index(self, folder):
        return folder / SHARD_INDEX

    def edit(self, index, change):
        content = json.loads(index.read_text())
        change(content["weight_map"])
        index.write_text(json.dumps(content))

    def test_missing(self, folder, index):
        shard = sorted(folder.glob("model-*.safetensors"))[1]
        shard.unlink()
        refused(folder, index, f"shard {shard.name!r} is missing", "expected")

    def test_truncated(self, folder):
        shard = sorted(folder.glob("model-*.safetensors"))[1]
        shard.write_bytes(shard.read_bytes()[:-1])
        refused(folder, shard, "expected")

    def test_a_key_in_two_shards(self, folder):
        one, two = sorted(folder.glob("model-*.safetensors"))[:2]
        key, tensor = next(iter(load_file(one).items()))
        save_file(load_file(two) | {key: tensor}, two)
        refused(folder, two, key, "another shard")

    def test_a_key_that_the_index_lacks(self, folder, index):
        self.edit(index, lambda weight_map: weight_map.pop("prj.1.bias"))
        refused(folder, index, "'prj.1.bias' is missing from the index", "expected")

    def test_a_key_that_the_shards_lack(self, folder, index):
        name = next(folder.glob("model-*.safetensors")).name
        self.edit(index, lambda weight_map: weight_map.update({"prj.9": name}))
        refused(folder, index, "'prj.9' is missing from the shards", "expected")

    @pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", "code.py"])
    def test_a_shard_elsewhere(self, folder, index, name):
        self.edit(index, lambda weight_map: weight_map.update({"prj.1.bias": name}))
        refused(folder, index, f"shard {name!r}", "expected the plain name")

    @pytest.mark.parametrize(
        "content", ["{", "{}", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 1}}']
    )
    def test_an_index_that_is_none(self, folder, index, content):
        index.write_text(content)
        refused(folder, index, error=UserError)


class Payload:
    """Unpickling it makes a file, so that a test can see whether it happened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
