"""One tensor of a checkpoint is wrong: it is refused, unless no shape, name or value can tell.

What loads all the same is named here from the shapes alone, and is shown to be all that does: a square matrix
transposed, and two tensors of one shape that changed places. A second name of one tensor may be missing: it is the same
model without it.
"""

import re

import pytest
import torch
from transformers.initialization import no_init_weights

from codi_lens import HookedCodi
from codi_lens.checkpoint import merge
from codi_lens.checkpoint.tensor_files import CheckpointError
from codi_lens.model import pretrained
from tests.families.bases import KINDS
from tests.families.files import write
from tests.families.twins import twin

LAYOUTS = ("codi", "coconut", "merged")
SQUARE = {
    "llama": ["self_attn.o_proj", "self_attn.q_proj"],
    "gpt2": ["attn.c_proj"],
    "qwen2": ["self_attn.o_proj", "self_attn.q_proj"],
    "qwen3": [],
}
"""Modules whose weight is as wide as high, at these sizes."""


class Damaged:
    """A twin in which one thing at a time is wrong."""

    def __init__(self, made):
        self.made = made
        self.good = {key: t for found in made.tensors() for key, t in found.items()}
        self.homes = {key: i for i, found in enumerate(made.tensors()) for key in found}
        self.kinds = sorted({re.sub(r"\.(\d+)\.(?=\D)", ".1.", k, count=1) for k in self.homes})

    def loads(self, tensors, homes=None):
        """The logits of what is loaded from these tensors; None if they are refused."""
        homes = self.homes | (homes or {})
        for i, path in enumerate(self.made.files):
            write(path, {key: t for key, t in tensors.items() if homes[key] == i})
        try:
            codi = HookedCodi.from_pretrained(self.made.source, **self.made.options)
        except CheckpointError as error:
            self.told = str(error)
            return None
        return codi.run_with_hooks("one plus two?", 42).logits

    def same(self, one, other):
        a, b = self.good[one], self.good[other]
        return one != other and a.shape == b.shape and torch.equal(a, b)

    def visible(self, key, other):
        """Whether shapes, or a second name of a tensor, tell that two have changed places."""
        second_names = [k for one in (key, other) for k in self.good if self.same(one, k)]
        return bool(second_names) or self.good[key].shape != self.good[other].shape

    def swaps(self):
        """Each kind of tensor with one of another shape, and every second with one of the same shape."""
        found = {}
        for start, key in enumerate(self.kinds):
            turned = self.kinds[start + 1 :] + self.kinds[:start]
            others = [k for k in turned if not self.same(k, key)]
            unlike = [k for k in others if self.good[k].shape != self.good[key].shape][:1]
            alike = [k for k in others if self.good[k].shape == self.good[key].shape][: start % 2]
            found |= {tuple(sorted((key, other))): None for other in unlike + alike}
        return list(found)


@pytest.fixture(scope="module", params=[f"{kind}-{layout}" for kind in KINDS for layout in LAYOUTS])
def damaged(request, tmp_path_factory):
    found = Damaged(twin(request.param, tmp_path_factory.mktemp("twin")))
    found.name = request.param
    assert set(found.kinds) <= set(found.good)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Hundreds of loads: what no damage has a part in is not done each time, or done in a shorter way."""
    tokenizers = {}

    def read(paths, base, really=pretrained.read_tokenizer):
        key = tuple(paths)
        if key not in tokenizers:
            tokenizers[key] = really(paths, base)
        return tokenizers[key]

    monkeypatch.setattr(pretrained, "read_tokenizer", read)
    monkeypatch.setattr(merge, "merge_adapter", lambda w, a, b, alpha: w + alpha / len(a) * b @ a)
    with no_init_weights():
        yield


def test_every_single_damage_is_refused_that_can_be_seen(damaged):
    good, whole = damaged.good, damaged.loads(damaged.good)
    assert whole is not None
    square = []
    for key in damaged.kinds:
        without = {k: t for k, t in good.items() if k != key}
        if (logits := damaged.loads(without)) is not None:
            assert torch.equal(logits, whole)
            assert any(damaged.same(key, other) for other in damaged.kinds), key
        other_name = {key + "_old": good[key]}
        assert damaged.loads(without | other_name, {key + "_old": damaged.homes[key]}) is None, key
        assert f"{key!r} is missing" in damaged.told or f"{key}_old" in damaged.told
        broken = good[key].clone()
        broken.view(-1)[-1] = float("nan")
        assert damaged.loads(good | {key: broken}) is None, key
        assert f"{key!r} holds 1 NaN" in damaged.told
        if good[key].ndim == 2 and (logits := damaged.loads(good | {key: good[key].T})) is not None:
            assert not torch.allclose(logits, whole), key
            square.append(re.sub(r".*\.1\.", "", key).removesuffix(".weight"))
    for one, other in damaged.swaps():
        logits = damaged.loads(good | {one: good[other], other: good[one]})
        assert (logits is None) == damaged.visible(one, other), (one, other)
        assert logits is None or not torch.allclose(logits, whole), (one, other)
    kind, layout = damaged.name.split("-")
    inner = ".base_layer" * (layout == "codi")
    assert square == [module + inner for module in SQUARE[kind]]
