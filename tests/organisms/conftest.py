"""The tokenizer of the embedded models."""

import pytest
from transformers import PreTrainedTokenizerFast

from codi_lens.organisms.toy.tokenizer import build_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()
