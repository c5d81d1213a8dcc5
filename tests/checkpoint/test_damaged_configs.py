"""Configs and tokenizers that cannot be used: one error that names the file and the field."""

import json

import pytest

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.tensor_files import SAFETENSORS
from tests.checkpoint.damage import refused


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

    @pytest.mark.parametrize(
        ("content", "fault"), [("{}", "not a readable tokenizer"), ("{", "not JSON")]
    )
    def test_a_damaged_tokenizer(self, folder, content, fault):
        (folder / "tokenizer.json").write_text(content)
        refused(folder, folder / "tokenizer.json", fault, error=UserError)

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
