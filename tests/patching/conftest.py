"""Models that techniques are compared on."""

import pytest

from tests.models.architectures import MODELS, load


@pytest.fixture(scope="session", params=list(MODELS))
def codi(request, tmp_path_factory):
    return load(MODELS[request.param], tmp_path_factory.mktemp("kinds"))


@pytest.fixture(scope="session")
def grouped(tmp_path_factory):
    """Three layers, two heads to a key/value head."""
    return load({"kv_heads": 2}, tmp_path_factory.mktemp("grouped"), layers=3)
