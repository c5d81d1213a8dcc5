"""Models that many tests share."""

import jaxtyping
import pytest
import torch

from codi_lens import HookedCodi
from tests.models.tiny import write_tiny

torch.set_num_threads(1)  # the models are so small that a second thread only gets in the way


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """A random CODI in float64: 3 layers, 3 latents, grouped keys and values, tied embeddings."""
    return HookedCodi.from_pretrained(tiny_folder, dtype=torch.float64)


@pytest.fixture
def unchecked(monkeypatch):
    """No shape is checked, for a test that passes wrong ones to see what a user is told."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
