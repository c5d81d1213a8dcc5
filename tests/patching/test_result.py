"""A sweep as a table and as a dataset of other packages: the same values, each with its labels."""

import itertools
import json
import sys

import pytest
import torch

from codi_lens import UserError
from codi_lens.analysis.attribution import Attribution
from tests.models.invented import invented_sweep


@pytest.mark.parametrize("experiment", ["position_patching", "iterative_patching"])
def test_a_table_has_every_value_with_its_labels(experiment):
    sweep = invented_sweep(experiment, positions=("bot", 1, 2))
    table = sweep.to_dataframe()
    ids = [pair.pair_id for pair in sweep.pairs]
    cells = list(itertools.product(range(len(ids)), *map(range, sweep.zeros.shape)))
    assert len(table) == len(cells)
    names = ["pair_id", "kind", "operand", "effect", "control", "row", "column", "structural_zero"]
    assert list(table.columns[: len(names)]) == names
    assert set(table.columns[len(names) :]) == set(sweep.outcomes[0].metrics)
    effects, rows, columns = sweep.axes.values()
    for metric in sweep.outcomes[0].metrics:
        values = torch.tensor(table[metric].to_numpy()).reshape(sweep.values(metric).shape)
        torch.testing.assert_close(values, sweep.values(metric), atol=0, rtol=0, equal_nan=True)
    for line, (i, e, r, c) in zip(table.itertuples(), cells, strict=True):
        assert (line.pair_id, line.kind, line.operand) == (ids[i], "sum", "ab"[i % 2])
        assert (line.effect, line.row) == (effects[e], rows[r])
        assert str(line.column) == str(columns[c])
        assert line.structural_zero == bool(sweep.zeros[e, r, c])
        assert line.control == (effects[e] in ("identity", "resample", "random_direction"))


def test_a_dataset_is_asked_by_label():
    sweep = invented_sweep(positions=("bot", 1, 2))
    data = sweep.to_xarray()
    assert dict(data.sizes) == {"pair": 4, "effect": 6, "row": 3, "column": 3}
    for metric in sweep.outcomes[0].metrics:
        expected = sweep.values(metric, effect="direct", row=1, column="bot").numpy()
        assert (data[metric].sel(effect="direct", row=1, column="bot").to_numpy() == expected).all()
    assert list(data.operand.to_numpy()) == ["a", "b", "a", "b"]
    assert (data.structural_zero.to_numpy() == sweep.zeros.numpy()).all()
    assert json.loads(data.attrs["settings"])["positions"] == ["bot", 1, 2]
    assert data.attrs["experiment"] == "position_patching"


@pytest.mark.parametrize("package", ["pandas", "xarray"])
def test_what_is_not_installed_is_named_with_its_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    sweep = invented_sweep()
    with pytest.raises(UserError, match=rf"{package}.*pip install 'codi-lens\[data\]'"):
        sweep.to_dataframe() if package == "pandas" else sweep.to_xarray()


def test_attribution_has_the_same_tables():
    sweep = invented_sweep()
    scores = torch.rand(4, 3, 3, dtype=torch.float64)
    found = Attribution(
        sweep.settings, "gradient", 0, "logit_diff", tuple(sweep.pairs), scores, (True, False) * 2
    )
    table = found.to_dataframe()
    assert torch.equal(torch.tensor(table.score.to_numpy()).reshape(scores.shape), scores)
    line = table[(table.pair_id == 2) & (table.row == 1) & (table.column == 0)]
    assert line.score.item() == float(scores[2, 1, 0])
    assert line.prompt_interpolated.item()
    assert float(found.to_xarray().score.sel(pair=2, row=1, column=0)) == float(scores[2, 1, 0])
