"""Wrong shapes do not pass unseen through the library while tests run."""

import pytest
import torch
from jaxtyping import TypeCheckError

from codi_lens import CodiRun


def test_an_argument_of_another_shape_is_caught(tiny):
    tokens, mask = torch.ones((2, 5), dtype=torch.long), torch.ones((2, 4), dtype=torch.long)
    with pytest.raises(TypeCheckError, match="mask"):
        tiny.loop.read(tokens, mask)


def test_a_field_of_another_shape_is_caught():
    states = torch.zeros(2, 4, 8)
    CodiRun(torch.zeros(2, 3, 50), states, states, ())
    with pytest.raises(TypeCheckError, match="thoughts"):
        CodiRun(torch.zeros(2, 3, 50), states, states[:, :-1], ())


def test_other_annotations_are_left_alone(tiny):
    assert tiny.num_latents(torch.tensor(2)) == 2
