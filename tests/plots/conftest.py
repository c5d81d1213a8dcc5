"""Invented sweeps to draw."""

import pytest

from tests.models.invented import invented_sweep


@pytest.fixture(scope="module")
def sweep():
    return invented_sweep()


@pytest.fixture(scope="module")
def iterative():
    return invented_sweep("iterative_patching")
