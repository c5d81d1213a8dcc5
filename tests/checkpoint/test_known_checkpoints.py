"""The public checkpoints by their hub ids: what is known of each, and twins of them that load offline."""

import json
from dataclasses import asdict

import pytest
import torch

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.config import CONFIG_NAME, CodiConfig
from codi_lens.checkpoint.known import known_checkpoints, known_config, mirror_of
from codi_lens.checkpoint.tensor_files import PICKLED
from tests.checkpoint.test_merge import read_tensors
from tests.models.fake_hub import (
    BASE_FILES,
    COMMIT,
    CYWINSKI,
    GPT2,
    META,
    MIRROR,
    QUESTION,
    SIM_COT,
    TOKENIZER_FILES,
    ZEN,
    fill_cache,
)
from tests.models.llama3_tokenizer import llama3_tokenizer
from tests.models.tiny import PlainCodi, write_tiny


class TestKnownCheckpoints:
    def test_every_entry_is_valid_and_says_where_it_is_from(self):
        assert {ZEN, SIM_COT, CYWINSKI} < set(known_checkpoints())
        for name, entry in known_checkpoints().items():
            assert entry["source"]
            config = CodiConfig.from_mapping({"answer_stem": ""} | entry["config"], name)
            assert config.num_latents in (6, 8, 10)
            assert (config.lora_alpha, config.lora_rank) in ((32, 128), (None, None))
            assert len(config.lora_targets or "abc") in (3, 7)
            for score in entry.get("published", {}).values():
                assert 0 < score["accuracy"] <= 1
                assert score["source"]

    @pytest.mark.parametrize("base", ["gpt2", "llama32-1b"])
    @pytest.mark.parametrize("data", ["gsm8k", "prosqa", "prontoqa"])
    def test_checkpoints_by_pattern(self, base, data):
        """Of one author: the same names for all bases, data and methods."""
        stem = f"connordilgren/{base}-{data}-"
        found = {
            method: CodiConfig.from_mapping(known_config(stem + method), method)
            for method in (
                "coconut",
                "cot",
                "no-cot",
                "no_cot",
                "codi",
                "multimode-codi",
                "multimode",
            )
        }
        for config in found.values():
            assert config.base_model == (GPT2 if base == "gpt2" else META)
        assert found["coconut"].num_latents == 6
        for plain in ("cot", "no-cot", "no_cot"):
            assert (found[plain].num_latents, found[plain].begin, found[plain].end) == (0, (), ())
        bot = ("bot",) if base == "gpt2" else ("<|eot_id|>", "bot")
        assert found["multimode"].begin == found["multimode-codi"].begin == bot
        assert found["multimode-codi"].extra_tokens == ("bot", "eot")
        assert found["codi"].extra_tokens is None

    def test_what_sets_them_apart(self):
        assert known_config(ZEN)["projection_dim"] == 2048
        assert known_config(SIM_COT.replace("1B", "3B"))["projection_dim"] == 3072
        assert known_config(CYWINSKI)["bot_token"] == "<|bocot|>"
        assert known_config(CYWINSKI)["remove_eos"] is False
        assert known_config("someone/else") == {}
        assert mirror_of(META) == MIRROR

    def test_precedence(self, cache, tmp_path):
        """The caller, then the file beside the weights, then the table."""
        twin(ZEN, cache, tmp_path)
        assert model_settings(ZEN) == (32, 6)
        snapshot = cache / f"models--{ZEN.replace('/', '--')}" / "snapshots" / COMMIT
        (snapshot / CONFIG_NAME).write_text(json.dumps({"lora_alpha": 16, "num_latents": 4}))
        assert model_settings(ZEN) == (16, 4)
        assert model_settings(ZEN, num_latents=2) == (16, 2)
        assert model_settings(ZEN, alpha=8, num_latents=2) == (8, 2)

    def test_expectations_of_the_table_hold(self, cache, tmp_path):
        """A file with another rank than the published one is not that checkpoint."""
        twin(ZEN, cache, tmp_path, rank=64)
        with pytest.raises(UserError, match=r"shape \(64, 32\); expected \(128, 32\)"):
            HookedCodi.from_pretrained(ZEN)


def model_settings(name, **given):
    config = HookedCodi.from_pretrained(name, **given).config
    return config.lora_alpha, config.num_latents


def twin(name, cache, tmp_path, **changes):
    """A tiny checkpoint with the file layout of a published one, in the cache, beside its base.

    Returns the same model as a complete folder, for the reader that it is compared with.
    """
    config = CodiConfig.from_mapping(known_config(name), name)
    options = {
        "config": config,
        "rank": 128,
        "projection_dim": 2048,
        "layers": 2,
        "file_format": "bin",
        "base_dtype": torch.bfloat16,
        "rope": {
            "rope_type": "llama3", "rope_theta": 500000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
        "spread": 0.05,
        "tokenizer": fresh_tokenizer(),
    }  # fmt: skip
    if name == SIM_COT:
        decoder = {
            "decoder.model.norm.weight": torch.ones(8),
            "decoder.lm_head.weight": torch.ones(8),
        }
        options["extra"] = decoder
    if name == CYWINSKI:
        # Its training adds a pad token first, and its repository has the tokenizer.
        options["tokenizer"].add_special_tokens({"pad_token": "[PAD]"})
    full = write_tiny(tmp_path / "full", **(options | changes))
    own = [PICKLED, *(TOKENIZER_FILES if name == CYWINSKI else [])]
    snapshot = fill_cache(cache, name, full, own)
    for blank in ("config.json", "tokenizer.json", "generation_config.json"):
        if name == SIM_COT:  # as its repositories have them
            (snapshot / blank).write_bytes(b"")

    fresh_tokenizer().save_pretrained(tmp_path / "base")
    values = json.loads((full / "config.json").read_text())
    values["vocab_size"] = len(fresh_tokenizer())
    (tmp_path / "base" / "config.json").write_text(json.dumps(values))
    for repository in (META, MIRROR):
        fill_cache(cache, repository, tmp_path / "base", BASE_FILES)
    return full


def fresh_tokenizer():
    """A copy of its own: the shared one must not be given further tokens."""
    shared = llama3_tokenizer()
    return type(shared)(
        tokenizer_object=type(shared.backend_tokenizer).from_str(shared.backend_tokenizer.to_str()),
        bos_token=shared.bos_token,
        eos_token=shared.eos_token,
    )


@pytest.mark.parametrize("name", [ZEN, SIM_COT, CYWINSKI])
@pytest.mark.parametrize("base", [None, MIRROR])
def test_twins_of_the_public_checkpoints(name, base, cache, tmp_path):
    """Loaded offline by hub id alone, each gives the logits of plain transformers and peft."""
    full = twin(name, cache, tmp_path)
    codi = HookedCodi.from_pretrained(name, base=base, dtype=torch.float32)
    plain = PlainCodi(full, read_tensors(full), codi.config)
    answer = codi.tokens.answer(3600)
    number = [
        token for token in codi.tokens.tokenizer.convert_ids_to_tokens(answer) if token.isdigit()
    ]
    assert number == ["360", "0"]
    run = codi.run_with_hooks(QUESTION, 3600)
    expected = plain.run(QUESTION, answer, 6)
    assert (run.logits[0] - expected["logits"]).abs().max() < 1e-5
    assert (run.thoughts[0] - expected["thoughts"]).abs().max() < 1e-5

    length = len(fresh_tokenizer())
    ids = asdict(codi.ids)
    assert (ids["pad"], ids["bot"], ids["eot"]) == (length, length + 1, length + 2)
    report = codi.load_report
    assert report.scale == 0.25
    assert report.dropped == ({"decoder.": 2} if name == SIM_COT else {})
    assert report.vocabulary == length + 3
    prompt, eos = codi.tokens.prompt(QUESTION), codi.ids.eos
    assert prompt[-2:] == [eos, length + 1] if name == CYWINSKI else prompt[-1] == length + 1
    assert codi.tokens.end() == [length + 2]
