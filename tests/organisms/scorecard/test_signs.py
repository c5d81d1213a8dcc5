"""What the scorecard says of each kind of mechanism."""

import functools

import pytest

from codi_lens.organisms.scorecard import Score, load_organism, score

EXACT = "position-wise total"


@functools.cache
def organism(name):
    return load_organism(name)


@functools.cache
def scored(method, name) -> Score:
    return score(method, organism(name))


@pytest.mark.parametrize("name", ["sequential", "late", "dense"])
def test_exact_patching_finds_what_is_there(name):
    found = scored(EXACT, name)
    assert found.auroc >= 0.99
    assert (found.hits, found.false_positives) == (1, 0)
    assert found.iia >= 0.98


@pytest.mark.parametrize("name", ["sequential", "late", "dense", "redundant"])
def test_exchanging_nothing_finds_nothing(name):
    found = scored("position-wise identity", name)
    assert (found.auroc, found.hits, found.iia) == (0.5, 0, None)


def test_an_empty_mechanism_leaves_an_honest_map_empty():
    for effect in ("total", "direct", "indirect"):
        found = scored(f"position-wise {effect}", "bypass")
        assert found.false_positives == 0
        assert found.auroc is None
    assert scored("resample ablation", "bypass").false_positives == 0


def test_single_sites_miss_what_is_redundant_and_joint_ones_do_not():
    single, joint = scored(EXACT, "redundant"), scored("cumulative", "redundant")
    assert single.hits == 0
    assert single.auroc < 0.6
    assert joint.hits > single.hits
    # Joint patching claims the second thought of each couple, and nothing off the way.
    assert joint.false_positives == 0
    assert scored("layer-wise", "redundant").hits == 1


def test_a_lens_is_fooled_by_a_decoy_and_patching_is_not():
    lens, patched = scored("logit lens", "decoy"), scored(EXACT, "decoy")
    assert all(cells[5] > 0.9 for cells in lens.cells.values())
    assert all(abs(cells[5]) < 0.1 for cells in patched.cells.values())
    assert lens.false_positives > 0
    assert patched.false_positives == 0
    assert patched.auroc > lens.auroc


def test_a_probe_reads_what_nothing_uses():
    """The decoy's answer off thought 5, as well as off thought 4, which carries it."""
    probed, patched = scored("probe", "decoy"), scored(EXACT, "decoy")
    for result in probed.cells:
        assert min(probed.cells[result][4:]) > 0.9
        assert abs(patched.cells[result][5]) < 0.1 < 0.9 < patched.cells[result][4]
    assert probed.false_positives > patched.false_positives == 0
    # Where each thought holds its own result and those before are not kept, the two agree.
    assert scored("probe", "dense").auroc == 1


def test_routes_are_told_apart():
    for name in ("state-route", "kv-route"):
        assert scored("routes", name).routes_auroc == 1.0


def test_a_pointer_is_needed_and_cannot_be_transplanted():
    assert scored(EXACT, "pointer").hits == 0
    assert scored("resample ablation", "pointer").hits == 1


def test_seeds_agree_on_what_was_planted():
    for name in ("sequential", "redundant"):
        one, other = scored(EXACT, name), scored(EXACT, f"{name}-2")
        assert one.hits == pytest.approx(other.hits, abs=0.1)
