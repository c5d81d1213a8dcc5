"""One tensor of a twin is wrong, whatever its layout: it is refused, or left out by rule, or one that no shape can tell.

`test_damaged` tries every kind of tensor in three layouts; here some are drawn from each of the others.
"""

import random

import pytest
import torch
from transformers.initialization import no_init_weights

from codi_lens import HookedCodi
from codi_lens.checkpoint.tensor_files import CheckpointError
from tests.families import test_damaged
from tests.families.files import write
from tests.families.twins import TWINS, twin

NAMES = [name for name in TWINS if name.split("-")[1] not in test_damaged.LAYOUTS]
DRAWS = 2
"""Tensors that each damage is tried on."""


def drop(tensors, key, _other):
    return {k: t for k, t in tensors.items() if k != key}


def rename(tensors, key, _other):
    return {f"old.{k}" if k == key else k: t for k, t in tensors.items()}


def transpose(tensors, key, _other):
    return tensors | {key: tensors[key].T}


def swap(tensors, key, other):
    return tensors | {key: tensors[other], other: tensors[key]}


def not_a_number(tensors, key, _other):
    broken = tensors[key].clone()
    broken.view(-1)[-1] = torch.nan
    return tensors | {key: broken}


def unused(made, files, at, key):
    """Left out by rule: an auxiliary decoder, an old buffer, an embedding that the adapter's file has anew."""
    bare = key.removeprefix(made.wrapper)
    buffers = tuple(f".{name}" for name in made.leftovers)  # "attn.bias" is not "attn.c_attn.bias"
    if bare.startswith(tuple(made.dropped)) or bare.endswith(buffers):
        return True
    later = {k for tensors in files[at + 1 :] for k in tensors}
    return made.adapters is not None and made.adapters + key in later


def second_name(tensors, key):
    same = [k for k, t in tensors.items() if t.shape == tensors[key].shape and k != key]
    return any(torch.equal(tensors[k], tensors[key]) for k in same)


def cases(files, draw):
    """(file, damage, tensor, another tensor), some of each damage."""
    every = [(at, key) for at, tensors in enumerate(files) for key in tensors]
    fit = {
        drop: every,
        rename: every,
        swap: every,
        transpose: [(at, key) for at, key in every if files[at][key].ndim == 2],
        not_a_number: [(at, key) for at, key in every if files[at][key].is_floating_point()],
    }
    for damage, possible in fit.items():
        for at, key in draw.sample(possible, DRAWS):
            yield at, damage, key, draw.choice([k for k in files[at] if k != key])


@pytest.mark.parametrize("name", NAMES)
def test_what_loads_in_spite_of_a_damage_is_what_no_name_or_shape_can_tell(name, tmp_path):
    made = twin(name, tmp_path)
    files = made.tensors()

    def loaded():
        try:
            with no_init_weights():  # for speed: every weight is then loaded
                codi = HookedCodi.from_pretrained(made.source, **made.options)
        except CheckpointError:
            return None
        run = codi.run_with_hooks("one plus two?", 42)
        return torch.cat([run.thoughts.flatten(), run.logits.flatten()])

    whole = loaded()
    assert whole is not None
    for at, damage, key, other in cases(files, random.Random(name)):
        tensors = files[at]
        write(made.files[at], damage(tensors, key, other))
        found = loaded()
        write(made.files[at], tensors)
        touched = [key, other] if damage is swap else [key]
        needed = [k for k in touched if not unused(made, files, at, k)]
        square = damage is transpose and len(set(tensors[key].shape)) == 1
        alike = damage is swap and tensors[key].shape == tensors[other].shape
        where = (damage.__name__, *touched)
        if found is None:
            # An unknown name is refused even where nobody needs the tensor.
            assert needed or damage is rename, where
        elif torch.equal(found, whole):
            copied = second_name(tensors, key)
            equal = alike and torch.equal(tensors[key], tensors[other])
            assert not needed or (damage is drop and copied) or equal, where
        else:
            assert needed, where
            assert square or alike, where
