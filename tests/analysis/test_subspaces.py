"""Distributed alignment search: what an interchange of a subspace is, and that planted ones are found."""

import pytest
import torch

from codi_lens import UserError, align, load_pairs, patch_positions
from codi_lens.analysis.subspaces import examples_of, overlap
from codi_lens.data.pairs import Pair, Variant
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.organisms.planted.certify import examples
from codi_lens.organisms.scorecard import load_organism
from codi_lens.patching.interventions import InSubspace
from codi_lens.patching.plan import SOURCE


def bases(width, rank, seed=0):
    """An orthonormal basis and one of its complement."""
    generator = torch.Generator().manual_seed(seed)
    square = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.linalg.qr(square)[0].split([rank, width - rank], dim=1)


def test_a_subspace_and_its_complement_make_the_whole():
    own, other = torch.randn(2, 5, 8, dtype=torch.float64)
    one, rest = bases(8, 3)
    moved = InSubspace.exchanged(own, other, one)
    torch.testing.assert_close(moved @ one, other @ one)
    torch.testing.assert_close(moved @ rest, own @ rest)
    torch.testing.assert_close(InSubspace.exchanged(moved, other, rest), other)
    assert overlap(one, one) == pytest.approx(1)
    assert overlap(one, rest) == pytest.approx(0)
    assert overlap(one[:, :2], one) == pytest.approx(1)


def test_exchanging_all_dimensions_is_patching(tiny):
    """And exchanging none is doing nothing: the subspace is an intervention like any other."""
    pairs = [Pair(0, Variant("12 plus 30?", 42), Variant("12 plus 31?", 43))]
    whole = torch.eye(tiny.model.cfg.d_model, dtype=torch.float64)

    def recovered(basis):
        put = InSubspace((SOURCE,), basis)
        return patch_positions(tiny, pairs, intervention=put).values("logit_diff")

    exact = patch_positions(tiny, pairs).values("logit_diff")
    torch.testing.assert_close(recovered(whole), exact, rtol=0, atol=1e-9)
    nothing = recovered(whole[:, :0])
    torch.testing.assert_close(nothing, nothing[:, :, :1, :1].expand_as(nothing), rtol=0, atol=1e-9)


def test_what_an_interchange_between_the_sides_of_a_pair_must_give():
    clean, corrupted = Variant("a", 9, (), (3, 4)), Variant("b", 8, (), (3, 5))
    pair = Pair(7, clean, corrupted)
    same, differs = examples_of([pair], 0), examples_of([pair], 1)
    assert [(e.base, e.source, e.answer) for e in same] == [("b", "a", 8), ("a", "b", 9)]
    assert [(e.base, e.source, e.answer) for e in differs] == [("b", "a", 9), ("a", "b", 8)]
    with pytest.raises(UserError, match="pair 7 has 3 results, so none of number 3"):
        examples_of([pair], 3)


def test_what_a_thought_holds_is_found_there_and_nowhere_else():
    organism = load_organism("sequential")
    asked = examples(organism.truth, "v2", 240)
    there = align(organism.codi, asked, "thought", 2, 16, steps=40)
    assert there.iia >= 0.95
    assert there.random <= 0.5
    assert there.losses[-1] < 0.5
    idle = align(organism.codi, asked, "thought", 3, 16, steps=5)
    assert max(idle.iia, idle.whole) <= 0.2
    put = there.intervention()
    sweep = patch_positions(
        organism.codi, organism.pairs, layers=["thought"], positions=[2], intervention=put
    )
    recovered = sweep.values("recovery")[:, 0, 0, 0]
    carried = [
        pair.clean.intermediates[1] != pair.corrupted.intermediates[1] for pair in sweep.pairs
    ]
    assert float(recovered[torch.tensor(carried)].mean()) > 0.9


def test_the_planted_subspaces_are_found():
    """Learned bases against those that were planted, and a whole vector, which exchanges both results."""
    organism = load_organism("subspace")
    (planted,) = organism.truth.subspaces.values()
    for result, basis in planted.items():
        asked = examples(organism.truth, result, 400)
        found = align(organism.codi, asked, "thought", 2, 3, steps=80)
        assert found.iia >= 0.95
        assert found.overlap(basis) >= 0.9
        assert found.whole <= 0.2
        assert align(organism.codi, asked, "thought", 3, 3, steps=5).iia <= 0.2


def test_bad_places_and_ranks_are_refused(tiny):
    asked = examples_of(load_pairs("toy")[:4], 0)
    with pytest.raises(UserError, match="rank 97 is more than the 96 dimensions"):
        align(HookedCodi.from_pretrained("toy"), asked, 0, 1, 97)
    with pytest.raises(UserError, match="no layer 9"):
        align(tiny, asked, 9, 1, 2)
    with pytest.raises(UserError, match="2 examples of one couple of questions leave none"):
        align(HookedCodi.from_pretrained("toy"), asked[:2], 0, 1, 2)
