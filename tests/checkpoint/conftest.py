"""Checkpoints to break and hubs to load from."""

import shutil

import huggingface_hub
import pytest

from tests.models.fake_hub import FakeHub, serve
from tests.models.tiny import write_tiny


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("good"), tied=False, layers=2)


@pytest.fixture
def folder(good, tmp_path):
    return shutil.copytree(good, tmp_path / "damaged")


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
