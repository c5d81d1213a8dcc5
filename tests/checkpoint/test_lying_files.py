"""Files whose content is not what it claims: one error that names file and field, before anything is allocated."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from codi_lens import UserError
from codi_lens.checkpoint import config as codi_config
from codi_lens.checkpoint.architectures import llama as llama_config
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, SHARD_INDEX, CheckpointError
from codi_lens.model import pretrained
from codi_lens.model.pretrained import load_pretrained
from tests.models.tiny import LLAMA3_ROPE, tiny_config, write_tiny

ODD = (
    None, True, "", "x", "\ud800", [], [None], ["\udfff"], {}, -1, 0, 1, 2.5, 10**9, 10**30, 10**400,
    1e308, float("nan"), float("inf"), "long" * 5000, [[[[]]]] * 99,
)  # fmt: skip
NAMES = {"config.json": llama_config.FIELDS, "codi_config.json": codi_config.FIELDS}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("good"), layers=2, rope=LLAMA3_ROPE)


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "lying")


def places():
    """Every field of the two files, and those of the rotary embedding's object."""
    for name, fields in NAMES.items():
        yield from ((name, (field,)) for field in fields)
    yield "config.json", ("model_type",)
    yield from (("config.json", ("rope_parameters", field)) for field in llama_config.ROPE)


@pytest.mark.parametrize(("name", "path"), list(places()))
def test_any_value_in_any_field_loads_or_is_one_error(folder, name, path):
    values = json.loads((folder / name).read_text())
    for odd in ODD:
        changed = json.loads(json.dumps(values))
        holder = changed
        for part in path[:-1]:
            holder = holder[part]
        holder[path[-1]] = odd
        (folder / name).write_text(json.dumps(changed))
        error = refusal(folder)
        if error is not None:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 1000
            assert str(folder) in message
            # Where file and tensors disagree, the tensors may be named in the field's place.
            assert path[-1] in message or isinstance(error, CheckpointError)
            message.encode()


def test_a_field_given_twice_is_refused(tmp_path):
    """JSON would take the last of them in silence."""
    path = write_tiny(tmp_path, layers=1) / "codi_config.json"
    path.write_text(
        path.read_text().replace('"num_latents": 3', '"num_latents": 3, "num_latents": 2')
    )
    assert "the key 'num_latents' is given twice" in str(refusal(tmp_path))


def test_a_tokenizer_that_says_a_thing_twice_is_refused(tmp_path):
    path = write_tiny(tmp_path, layers=1) / "tokenizer.json"
    path.write_text(path.read_text().replace('"version"', '"version": "0.9", "version"', 1))
    message = str(refusal(tmp_path))
    assert str(path) in message
    assert "the key 'version' is given twice" in message


def refusal(folder):
    try:
        load_pretrained(folder)
    except UserError as error:
        return error


@pytest.mark.parametrize("name", ["config.json", "codi_config.json", SHARD_INDEX])
def test_json_without_end_of_depth(folder, name):
    (folder / SAFETENSORS).unlink()
    write_tiny(folder, layers=1, max_shard_size="40KB")
    (folder / name).write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match=f"{name}: nested too deep"):
        load_pretrained(folder)


@pytest.mark.parametrize("error", [MemoryError, torch.OutOfMemoryError, RuntimeError])
def test_too_little_memory_is_said_in_one_message(good, monkeypatch, error):
    def load(*_, **__):
        raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(pretrained, "load_checkpoint", load)
    with pytest.raises(UserError, match=f"{good}: out of memory; expected room for the model"):
        load_pretrained(good)


def test_a_token_whose_id_is_beyond_the_embedding(folder):
    """The vocabulary is short, its ids are not."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["far"] = 10**6
    path.write_text(json.dumps(content))
    with pytest.raises(
        CheckpointError, match="the tokenizer has ids up to 1000000; expected at mo"
    ):
        load_pretrained(folder)


def test_a_pickled_tensor_that_has_fewer_values_than_its_shape_says(folder):
    tensors = load_file(folder / SAFETENSORS)
    (folder / SAFETENSORS).unlink()
    tensors["prj.1.bias"] = torch.zeros(1).expand(10**12)
    torch.save(tensors, folder / PICKLED)
    with pytest.raises(
        CheckpointError, match=r"'prj.1.bias' has shape \(1000000000000,\), more than"
    ):
        load_pretrained(folder)


@pytest.mark.parametrize("whole", [np.int64, np.uint8, int])
def test_whatever_is_an_integer_is_a_number_of_thoughts(good, whole):
    config = load_pretrained(good, num_latents=whole(2), lora_alpha=np.float32(6)).config
    assert config == codi_config.CodiConfig.from_mapping(
        vars(load_pretrained(good, num_latents=2, lora_alpha=6.0).config), "here"
    )
    assert type(config.num_latents) is int


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"num_latents": True},
            "field 'num_latents' is True; it must be a whole number, 0 or more",
        ),
        ({"num_latents": 2.0}, "field 'num_latents' is 2.0; it must be a whole number"),
        ({"lora_alpha": True}, "field 'lora_alpha' is True; it must be a positive number"),
        ({"remove_eos": 1}, "field 'remove_eos' is 1; it must be true or false"),
        ({"answer_stem": "\ud800"}, "field 'answer_stem' is .* without lone surrogates"),
        (
            {"dtype": "int8"},
            "no dtype 'int8' for a model; give float32, bfloat16, float16, float64",
        ),
        ({"dtype": torch.int8}, "no dtype 'torch.int8' for a model; give float32"),
        ({"device": "gpu"}, "no device 'gpu' here; give 'auto', 'cpu', 'cuda' or 'mps'"),
        ({"device": None}, "no device 'None' here; give 'auto'"),
    ],
)
def test_arguments_of_another_kind(good, given, message):
    with pytest.raises(UserError, match=message):
        load_pretrained(good, **given)
    with pytest.raises(UserError, match="field"):
        tiny_config(num_latents=True)


@pytest.mark.parametrize("dtype", ["bfloat16", "torch.bfloat16", torch.bfloat16])
def test_a_dtype_by_its_name(good, dtype):
    assert load_pretrained(good, dtype=dtype).model.dtype == torch.bfloat16
