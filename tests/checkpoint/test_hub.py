"""Models from the hub and from its cache: which files, from where, and what the errors advise."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.checkpoint.hub import model_files
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, SHARD_INDEX
from tests.models.fake_hub import (
    BASE_FILES,
    GPT2,
    META,
    MIRROR,
    OTHER,
    TOKENIZER_FILES,
    ZEN,
    fill_cache,
    only,
)
from tests.models.tiny import tiny_config, write_tiny


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
