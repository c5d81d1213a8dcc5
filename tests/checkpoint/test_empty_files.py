"""Files that are there and empty: as if they were not."""

import re
import shutil

import pytest

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, SHARD_INDEX
from tests.models.fake_hub import TOKENIZER_FILES, fill_cache
from tests.models.tiny import LLAMA3_ROPE, tiny_config, write_tiny


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
