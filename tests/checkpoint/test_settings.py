"""Settings of a checkpoint: from its file, from the caller, or from nowhere; and a vocabulary that fits."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.config import CONFIG_NAME, CodiConfig
from codi_lens.checkpoint.fields import read_object
from codi_lens.checkpoint.layouts import CODI
from codi_lens.checkpoint.tensor_files import SAFETENSORS, CheckpointError
from tests.checkpoint.test_merge import ANSWER, EMBEDDING, QUESTION
from tests.models.tiny import tiny_config, write_tiny


class TestSettings:
    """What the tensors cannot say: caller, then codi_config.json, then an error that names it."""

    @pytest.fixture
    def folder(self, tmp_path):
        return write_tiny(tmp_path)

    def test_the_caller_comes_first(self, folder):
        codi = HookedCodi.from_pretrained(
            folder, alpha=2.0, num_latents=5, remove_eos=False, answer_stem="The"
        )
        assert codi.config.lora_alpha == codi.load_report.lora_alpha == 2.0
        assert (codi.config.num_latents, codi.config.remove_eos) == (5, False)
        assert codi.config.answer_stem == "The"

    @pytest.mark.parametrize(
        ("field", "argument"),
        [
            ("lora_alpha", "alpha"),
            ("num_latents", "num_latents"),
            ("remove_eos", "remove_eos"),
            ("answer_stem", "answer_stem"),
        ],
    )
    def test_what_nobody_says_is_asked_for_by_name(self, folder, field, argument):
        values = json.loads((folder / CONFIG_NAME).read_text())
        del values[field]
        (folder / CONFIG_NAME).write_text(json.dumps(values))
        with pytest.raises(UserError, match=rf"no value for {field}.* or pass {argument}=…"):
            HookedCodi.from_pretrained(folder)
        given = {"alpha": 12.0, "num_latents": 3, "remove_eos": True, "answer_stem": ""}[argument]
        HookedCodi.from_pretrained(folder, **{argument: given})

    def test_all_of_them_without_any_config(self, folder):
        (folder / CONFIG_NAME).unlink()
        with pytest.raises(UserError, match="lora_alpha, num_latents, remove_eos, answer_stem"):
            HookedCodi.from_pretrained(folder)
        given = {"num_latents": 3, "remove_eos": True, "answer_stem": "The answer is: "}
        codi = HookedCodi.from_pretrained(folder, alpha=12.0, **given)
        assert codi.config == CODI.complete(tiny_config())

    def test_written_and_read_back(self, tmp_path):
        config = tiny_config(drop_prefixes=("decoder.",), bot_token="<b>", eot_token="<e>")
        config.write(tmp_path)
        values = read_object(tmp_path / CONFIG_NAME)
        assert CodiConfig.from_mapping(values, "here") == config

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("lora_alpha", "32", "must be a positive number"),
            ("lora_alpha", True, "must be a positive number"),
            ("lora_alpha", 0, "must be a positive number"),
            ("num_latents", 2.5, "must be a whole number"),
            ("num_latents", -1, "must be a whole number, 0 or more"),
            ("remove_eos", "yes", "must be true or false"),
            ("answer_stem", None, "must be a text"),
            ("bot_token", "<b>", "go together"),
            ("drop_prefixes", "decoder.", "must be a list"),
            ("drop_prefixes", [1], "an item of .* must be a text"),
            ("drop_prefixes", None, "must be a list"),
            ("lora_target", ["q_proj"], "unknown field 'lora_target'"),
        ],
    )
    def test_a_field_of_the_wrong_kind_names_file_and_field(self, folder, field, value, message):
        path = folder / CONFIG_NAME
        path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
        with pytest.raises(UserError, match=message) as caught:
            HookedCodi.from_pretrained(folder)
        assert str(path) in str(caught.value)
        assert field in str(caught.value)


class TestVocabulary:
    """Embedding rows, tokenizer and special tokens must fit each other."""

    def test_a_config_that_counts_the_extra_rows_in(self, tmp_path):
        write_tiny(tmp_path, spread=0.15)
        reference = HookedCodi.from_pretrained(tmp_path).run_with_hooks(QUESTION, ANSWER)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": 117}))
        codi = HookedCodi.from_pretrained(tmp_path)
        assert codi.load_report.special_ids["bot"] == 115
        assert torch.equal(codi.run_with_hooks(QUESTION, ANSWER).logits, reference.logits)

    @pytest.mark.parametrize("vocab_size", [113, 115, 116, 118])
    def test_another_base_model(self, tmp_path, vocab_size):
        write_tiny(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"vocab_size": vocab_size}))
        with pytest.raises(CheckpointError, match=r"117 rows; expected .* is this the right base"):
            HookedCodi.from_pretrained(tmp_path)

    def test_a_tokenizer_with_tokens_of_its_own_needs_them_named(self, tmp_path):
        config = tiny_config(bot_token="<|bocot|>", eot_token="<|eocot|>")
        write_tiny(tmp_path, config=config)
        values = json.loads((tmp_path / CONFIG_NAME).read_text())
        del values["bot_token"], values["eot_token"]
        (tmp_path / CONFIG_NAME).write_text(json.dumps(values))
        with pytest.raises(
            CheckpointError, match="tokenizer has ids up to 115; expected at most 113"
        ):
            HookedCodi.from_pretrained(tmp_path)

    def test_special_tokens_that_the_tokenizer_lacks(self, tmp_path):
        write_tiny(tmp_path)
        tiny_config(bot_token="<|bocot|>", eot_token="<|eocot|>").write(tmp_path)
        with pytest.raises(UserError, match=r"no token '<\|bocot\|>'"):
            HookedCodi.from_pretrained(tmp_path)

    def test_special_tokens_beyond_the_embedding(self, tmp_path):
        config = tiny_config(bot_token="<|bocot|>", eot_token="<|eocot|>")
        write_tiny(tmp_path, config=config)
        tensors = load_file(tmp_path / SAFETENSORS)
        tensors[EMBEDDING] = tensors[EMBEDDING][:-1].clone()
        save_file(tensors, tmp_path / SAFETENSORS)
        with pytest.raises(
            CheckpointError, match="tokenizer has ids up to 115; expected at most 114"
        ):
            HookedCodi.from_pretrained(tmp_path)
