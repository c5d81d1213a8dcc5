"""Every way in which a checkpoint can be broken is one error that says what and where; none loads."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, SHARD_INDEX, CheckpointError
from tests.models.tiny import TARGETS, write_tiny

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


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("good"), tied=False, layers=2)


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "damaged")


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


class TestConfigs:
    @pytest.mark.parametrize("name", ["config.json", "codi_config.json"])
    @pytest.mark.parametrize("content", ["{}", "[]", "null", "{", '{"lora_alpha": '])
    def test_no_json_or_another_kind(self, folder, name, content):
        (folder / name).write_text(content)
        refused(folder, folder / name, error=UserError)

    @pytest.mark.parametrize(
        "field",
        ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps",
         "num_attention_heads", "max_position_embeddings", "model_type"],
    )  # fmt: skip
    @pytest.mark.parametrize("value", ["absent", None, "32", 0, True])
    def test_a_field_that_transformers_would_fill_in(self, folder, field, value):
        path = folder / "config.json"
        values = json.loads(path.read_text())
        values.pop(field) if value == "absent" else values.update({field: value})
        path.write_text(json.dumps(values))
        refused(folder, path, f"field {field!r} is", "must be", error=UserError)

    def test_no_base_of_the_rotary_embedding(self, folder):
        path = folder / "config.json"
        values = json.loads(path.read_text())
        del values["rope_parameters"]
        path.write_text(json.dumps(values))
        refused(folder, path, "'rope_theta' is missing", error=UserError)

    @pytest.mark.parametrize(
        "change",
        [
            {"hidden_size": 33},
            {"num_key_value_heads": 3},
            {"head_dim": 7},
            {"attention_bias": None},
        ],
    )
    def test_values_that_make_no_llama(self, folder, change):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        (field,) = change
        refused(folder, path, field, error=UserError)

    @pytest.mark.parametrize(
        ("change", "found"),
        [
            ({"num_hidden_layers": 3}, "'num_hidden_layers' is 3"),
            ({"num_hidden_layers": 1}, "layers.1."),
            ({"intermediate_size": 64}, "'intermediate_size' is 64"),
            ({"num_key_value_heads": 4}, "'num_key_value_heads' × 'head_dim' is 32"),
            ({"head_dim": 16}, "'num_attention_heads' × 'head_dim' is 64"),
            ({"hidden_size": 10**9}, "'hidden_size' is 1000000000"),
            ({"num_hidden_layers": 10**9}, "'num_hidden_layers' is 1000000000"),
            ({"attention_bias": True}, "q_proj.bias' is missing"),
        ],
    )
    def test_a_llama_of_another_shape(self, folder, change, found):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        refused(folder, folder / SAFETENSORS, found)

    @pytest.mark.parametrize("content", ["{}", "{"])
    def test_a_damaged_tokenizer(self, folder, content):
        (folder / "tokenizer.json").write_text(content)
        refused(folder, folder / "tokenizer.json", "not a readable tokenizer", error=UserError)

    @pytest.mark.parametrize(
        ("name", "path", "value"),
        [
            ("tokenizer_config.json", ("model_max_length",), "x"),
            ("tokenizer_config.json", ("unk_token",), ""),
            ("tokenizer.json", ("post_processor", "special_tokens"), {}),
        ],
    )
    def test_a_tokenizer_whose_damage_shows_in_use(self, folder, name, path, value):
        content = json.loads((folder / name).read_text())
        place = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        (folder / name).write_text(json.dumps(content))
        refused(folder, folder / "tokenizer.json", "not a readable tokenizer", error=UserError)

    def test_a_byte_order_mark_is_no_damage(self, folder):
        for name in ("config.json", "codi_config.json", "tokenizer.json", "tokenizer_config.json"):
            path = folder / name
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert HookedCodi.from_pretrained(folder).generate("one?", max_new_tokens=1) is not None

    @pytest.mark.parametrize(
        "change", [{"torch_dtype": "nope"}, {"pad_token_id": "x"}, {"layer_types": 5}]
    )
    def test_what_is_not_used_of_a_config_damages_nothing(self, folder, change):
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        tokenizer = folder / "tokenizer_config.json"
        tokenizer.unlink()  # the class is then looked up in config.json
        with pytest.raises(UserError, match="the tokenizer has no eos token"):
            HookedCodi.from_pretrained(folder)

    def test_a_setting_that_the_tokenizer_does_not_have_is_blamed_on_what_says_it(self, folder):
        with pytest.raises(UserError, match=r"^settings given: .*every word of answer_stem"):
            HookedCodi.from_pretrained(folder, answer_stem="The moon ")
        path = folder / "codi_config.json"
        values = json.loads(path.read_text())
        for change, found in (
            ({"answer_stem": "The moon "}, "does not know every word of answer_stem"),
            ({"bot_token": "one", "eot_token": "<moon>"}, "has no token '<moon>'"),
        ):
            path.write_text(json.dumps(values | change))
            message = refused(folder, found, error=UserError)
            assert message.startswith(f"{path}: the tokenizer")

    def test_no_tokenizer(self, folder):
        (folder / "tokenizer.json").unlink()
        refused(folder, folder, "no tokenizer.json", error=UserError)

    def test_a_tokenizer_with_code_is_not_run(self, folder):
        path = folder / "tokenizer_config.json"
        values = json.loads(path.read_text())
        code = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "mine.Mine"]}}
        path.write_text(json.dumps(values | code))
        (folder / "mine.py").write_text("raise SystemExit('this code ran')\n")
        refused(folder, "tokenizer.json: not a readable tokenizer", error=UserError)


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


class Payload:
    """Unpickling it makes a file, so that a test can see whether it happened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
