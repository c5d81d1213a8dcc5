"""Models from the hub and from its cache: which files, from where, and what the errors advise."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import huggingface_hub
import pytest
import torch

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.config import CONFIG_NAME, CodiConfig
from codi_lens.checkpoint.hub import model_files
from codi_lens.checkpoint.known import known_checkpoints, known_config, mirror_of
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, SHARD_INDEX
from tests.checkpoint.test_merge import read_tensors
from tests.models.fake_hub import COMMIT, OTHER, FakeHub, fill_cache, serve
from tests.models.llama3_tokenizer import llama3_tokenizer
from tests.models.tiny import LLAMA3_ROPE, PlainCodi, tiny_config, write_tiny

ZEN = "zen-E/CODI-llama3.2-1b-Instruct"
GPT2 = "openai-community/gpt2"
SIM_COT = "internlm/SIM_COT-LLaMA3-CODI-1B"
CYWINSKI = "bcywinski/codi_llama1b-answer_only"
META, MIRROR = "meta-llama/Llama-3.2-1B-Instruct", "unsloth/Llama-3.2-1B-Instruct"
BASE_FILES = ["config.json", "tokenizer.json", "tokenizer_config.json"]
TOKENIZER_FILES = BASE_FILES[1:]
QUESTION = "A team starts with 3 members. How many people are there now?"


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("files"))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client, which is told to be offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


@pytest.fixture
def hub(cache, monkeypatch):
    """A hub to download from, into the empty cache."""
    fake = FakeHub()
    with serve(fake) as address:
        template = address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield fake


def only(source, target, names):
    """A folder with some of another's files."""
    target.mkdir(parents=True)
    for name in names:
        shutil.copy(source / name, target / name)
    return target


class TestDownload:
    def test_whole_model_from_one_repository(self, hub, tiny_files):
        hub.repositories["someone/tiny"] = {"main": tiny_files}
        codi = HookedCodi.from_pretrained("someone/tiny")
        reference = HookedCodi.from_pretrained(tiny_files)
        assert codi.digest == reference.digest
        assert codi.name == "someone/tiny"
        assert codi.generate("one plus two?") == reference.generate("one plus two?")

    def test_then_offline_from_the_cache_that_it_filled(self, hub, tiny_files, monkeypatch):
        hub.repositories["someone/tiny"] = {"main": tiny_files}
        digest = HookedCodi.from_pretrained("someone/tiny").digest
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        hub.requests.clear()
        assert HookedCodi.from_pretrained("someone/tiny").digest == digest
        assert not hub.requests

    def test_without_a_connection_from_the_cache_that_it_filled(self, hub, tiny_files, monkeypatch):
        hub.repositories["someone/tiny"] = {"main": tiny_files}
        digest = HookedCodi.from_pretrained("someone/tiny").digest
        template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("time.sleep", lambda _: None)
        assert HookedCodi.from_pretrained("someone/tiny").digest == digest

    def test_only_what_is_needed(self, hub, tiny_files, tmp_path):
        folder = shutil.copytree(tiny_files, tmp_path / "repository")
        for name in (PICKLED, "modeling.py", "README.md", "training_args.bin", "optimizer.pt"):
            (folder / name).write_bytes(b"not to be downloaded")
        hub.repositories["someone/tiny"] = {"main": folder}
        HookedCodi.from_pretrained("someone/tiny")
        expected = [CONFIG_NAME, SAFETENSORS, *BASE_FILES]
        assert sorted(hub.files()) == sorted(expected)
        assert PICKLED not in hub.files("HEAD")

    def test_a_pickle_where_there_is_nothing_else(self, hub, tmp_path):
        hub.repositories["someone/tiny"] = {"main": write_tiny(tmp_path / "r", file_format="bin")}
        HookedCodi.from_pretrained("someone/tiny")
        assert PICKLED in hub.files()

    def test_all_shards(self, hub, tmp_path):
        folder = write_tiny(tmp_path / "r", max_shard_size="40KB")
        hub.repositories["someone/tiny"] = {"main": folder}
        codi = HookedCodi.from_pretrained("someone/tiny")
        shards = {path.name for path in folder.glob("model-*.safetensors")}
        assert shards | {SHARD_INDEX} <= set(hub.files())
        assert codi.digest == HookedCodi.from_pretrained(folder).digest

    def test_a_shard_that_the_repository_lacks(self, hub, tmp_path):
        folder = write_tiny(tmp_path / "r", max_shard_size="40KB")
        shard = sorted(folder.glob("model-*.safetensors"))[1]
        shard.unlink()
        hub.repositories["someone/tiny"] = {"main": folder}
        with pytest.raises(UserError, match=f"someone/tiny: this repository has no {shard.name}"):
            HookedCodi.from_pretrained("someone/tiny")

    def test_a_revision_and_all_files_from_its_commit(self, hub, tiny_files, tmp_path):
        other = write_tiny(tmp_path / "other", seed=1)
        hub.repositories["someone/tiny"] = {"main": tiny_files, "v2": other, OTHER: other}
        codi = HookedCodi.from_pretrained("someone/tiny", revision="v2")
        assert codi.digest == HookedCodi.from_pretrained(other).digest
        assert {revision for _, _, revision, _ in hub.requests} == {"v2", OTHER}
        assert hub.requests[0][2] == "v2"
        # Only until the first file told the commit.
        assert {name for _, _, revision, name in hub.requests if revision == "v2"} == {CONFIG_NAME}


class TestErrors:
    def advice(self, *arguments, **options):
        with pytest.raises(UserError) as caught:
            HookedCodi.from_pretrained(*arguments, **options)
        message = str(caught.value)
        assert "\n" not in message
        return message

    def test_a_gated_base_names_the_ungated_mirror(self, hub, tiny_files, tmp_path):
        hub.repositories[ZEN] = {"main": only(tiny_files, tmp_path / "r", [SAFETENSORS])}
        hub.gated.add(META)
        message = self.advice(ZEN)
        assert f"{META}: access is gated" in message
        assert f'base="{MIRROR}"' in message
        assert "hf auth login" in message

    def test_a_gated_checkpoint(self, hub):
        hub.gated.add("someone/gated")
        message = self.advice("someone/gated")
        assert "accept its licence on https://huggingface.co/someone/gated" in message

    def test_no_such_repository(self, hub):
        assert "no such folder here and no such model on the hub" in self.advice("someone/nothing")

    def test_no_such_revision(self, hub, tiny_files):
        hub.repositories["someone/tiny"] = {"main": tiny_files}
        assert "no revision 'v9'" in self.advice("someone/tiny", revision="v9")

    def test_a_name_that_the_hub_does_not_allow(self, hub):
        assert "the hub cannot be used (HFValidationError" in self.advice("someone/a--b..c")

    def test_no_weights_in_the_repository(self, hub, tiny_files, tmp_path):
        hub.repositories["a/b"] = {
            "main": only(tiny_files, tmp_path / "r", [CONFIG_NAME, *BASE_FILES])
        }
        assert "a/b: this repository has no weights (model.safetensors, " in self.advice("a/b")

    def test_offline_and_not_in_the_cache(self, cache, tiny_files):
        message = self.advice(ZEN)
        assert "the hub cannot be reached" in message
        assert f"hf download {META}" in message

    def test_offline_without_the_weights(self, cache, tiny_files):
        fill_cache(cache, "someone/tiny", tiny_files, [CONFIG_NAME, *BASE_FILES])
        message = self.advice("someone/tiny")
        assert "no weights" in message
        assert "`hf download someone/tiny`" in message

    def test_what_the_tensors_cannot_tell_is_asked_for_before_any_download(
        self, hub, tiny_files, tmp_path
    ):
        hub.repositories["a/b"] = {"main": only(tiny_files, tmp_path / "w", [SAFETENSORS])}
        assert "a/b: no value for num_latents, answer_stem" in self.advice("a/b")
        assert SAFETENSORS not in hub.files()

    def test_a_base_that_nobody_names(self, tiny_files, tmp_path):
        folder = only(tiny_files, tmp_path / "w", [SAFETENSORS, CONFIG_NAME])
        assert "give base=… (a folder or a hub id)" in self.advice(folder)
        assert "no config.json in this folder" in self.advice(folder, base=folder)

    def test_neither_folder_nor_hub_id(self):
        for name in ("nothing", "./a/b", "/a/b", "~/a", "a/b/c", "a b/c", Path("a/b")):
            assert "give 'toy', 'toy-gpt2', 'toy-coconut', a folder, or a hub id" in self.advice(
                name
            )

    def test_a_revision_of_a_folder(self, tiny_files):
        assert "is a folder, not a hub id" in self.advice(tiny_files, revision="main")

    @pytest.mark.parametrize("name", [GPT2, MIRROR, META])
    def test_what_is_a_base_model_alone_is_refused_unasked(self, hub, name):
        assert name in self.advice(name)
        assert not hub.requests

    def test_a_base_of_an_unknown_architecture(self, tiny_files, tmp_path):
        base = shutil.copytree(tiny_files, tmp_path / "bert")
        (base / "config.json").write_text(json.dumps({"model_type": "bert", "n_layer": 12}))
        folder = only(tiny_files, tmp_path / "w", [SAFETENSORS, CONFIG_NAME])
        assert "'model_type' is 'bert'; it must be 'llama' or 'gpt2'" in self.advice(
            folder, base=base
        )

    def test_a_device_that_does_not_exist(self, tiny_files):
        assert "no device 'gpu'" in self.advice(tiny_files, device="gpu")


class TestBase:
    """Config and tokenizer may be beside the weights or come from the base model."""

    @pytest.fixture
    def weights(self, tiny_files, tmp_path):
        return only(tiny_files, tmp_path / "weights", [SAFETENSORS, CONFIG_NAME])

    def test_as_a_folder(self, weights, tiny_files, tmp_path):
        base = only(tiny_files, tmp_path / "base", BASE_FILES)
        codi = HookedCodi.from_pretrained(weights, base=base)
        reference = HookedCodi.from_pretrained(tiny_files)
        assert codi.generate("one plus two?") == reference.generate("one plus two?")

    def test_as_a_hub_id(self, hub, weights, tiny_files):
        hub.repositories["meta/base"] = {"main": tiny_files}
        HookedCodi.from_pretrained(weights, base="meta/base")
        assert sorted(hub.files()) == sorted(BASE_FILES)

    def test_as_the_checkpoint_names_it(self, hub, weights, tiny_files):
        hub.repositories["meta/base"] = {"main": tiny_files}
        tiny_config(base_model="meta/base").write(weights)
        HookedCodi.from_pretrained(weights)

    def test_own_tokenizer_goes_before_that_of_the_base(self, weights, tmp_path):
        config = tiny_config(bot_token="<|bocot|>", eot_token="<|eocot|>")
        full = write_tiny(tmp_path / "full", config=config)
        weights = only(full, tmp_path / "own", [SAFETENSORS, CONFIG_NAME, *TOKENIZER_FILES])
        base = write_tiny(tmp_path / "base")
        codi = HookedCodi.from_pretrained(weights, base=base)
        assert len(codi.tokens.tokenizer) == 116


@pytest.mark.parametrize("content", [b"", b" \r\n\t" * 50_000])
@pytest.mark.parametrize("where", ["folder", "hub"])
class TestEmptyFiles:
    """A file with nothing in it is as good as none: whatever loads, or is refused, is the same."""

    @pytest.fixture
    def complete(self, tmp_path):
        """Two kinds of weights, and a base that can stand in for all but the weights."""
        base = write_tiny(tmp_path / "base", rope=LLAMA3_ROPE)
        config = tiny_config(base_model=str(base))
        folder = write_tiny(tmp_path / "shards", config=config, max_shard_size="40KB", seed=1)
        shutil.copy(write_tiny(tmp_path / "bin", file_format="bin", seed=2) / PICKLED, folder)
        shutil.copy(write_tiny(tmp_path / "one", config=config, seed=3) / SAFETENSORS, folder)
        return folder

    @pytest.mark.parametrize(
        "names",
        [
            [SAFETENSORS],
            [SAFETENSORS, SHARD_INDEX],
            [SAFETENSORS, SHARD_INDEX, PICKLED],
            [CONFIG_NAME],
            ["config.json"],
            ["config.json", *TOKENIZER_FILES],
            ["tokenizer.json"],
            ["tokenizer_config.json"],
        ],
    )
    def test_counts_as_absent(self, complete, cache, where, content, names):
        for name in names:
            (complete / name).unlink()
        absent = outcome(complete, where, cache)
        for name in names:
            (complete / name).write_bytes(content)
        assert outcome(complete, where, cache) == absent


def outcome(folder, where, cache):
    """What loading gives: weights, settings, where the rest is from; or the error, without its hint."""
    shutil.rmtree(cache, ignore_errors=True)
    name = folder
    if where == "hub":
        name = "someone/tiny"
        fill_cache(cache, name, folder)
    try:
        codi = HookedCodi.from_pretrained(name)
    except UserError as error:
        return re.sub(r" \(there but empty: .*?\)", "", str(error))
    tokenizer = codi.tokens.tokenizer
    return codi.digest, codi.config, codi.model.cfg.rotary_base, tokenizer.name_or_path, codi.ids


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


def test_environment_variables_of_the_client_are_enough(tiny_files, tmp_path):
    """In a process of its own, since the client reads them when it is imported."""
    fill_cache(tmp_path / "hub", "someone/tiny", tiny_files)
    program = (
        "from codi_lens import HookedCodi\n"
        "codi = HookedCodi.from_pretrained('someone/tiny')\n"
        "print(codi.generate('one plus two?'))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:transformer_lens", "-c", program],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    expected = HookedCodi.from_pretrained(tiny_files).generate("one plus two?")
    assert result.stdout.strip() == expected
    assert "deprecated" not in result.stderr


def test_a_local_folder_is_never_looked_up_on_the_hub(hub, tiny_files):
    HookedCodi.from_pretrained(tiny_files)
    assert not hub.requests


def test_files_of_a_folder(tiny_files):
    files = model_files(str(tiny_files))
    assert files.get("nothing.json") is None
    assert files.require(SAFETENSORS) == tiny_files / SAFETENSORS
    assert replace(files, folder=None).get(SAFETENSORS) is None
