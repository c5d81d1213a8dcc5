"""The report's content: what is in the page's data, and that the page is whole and small."""

import json
import re
from argparse import Namespace
from dataclasses import replace

import pytest
import torch

from codi_lens import UserError, plots
from codi_lens.analysis.aggregates import aggregate, donor_threshold
from codi_lens.cli.report import distinct_names, main, write_images
from codi_lens.report.beside import comparison
from codi_lens.report.build import embedded, report
from codi_lens.report.methods import summary
from tests.models.invented import SCRIPT, invented_sweep

MANIFEST = {
    "model": {
        "name": "m",
        "digest": "d" * 64,
        "num_layers": 3,
        "dtype": "float32",
        "device": "cpu",
    },
    "settings": {
        "num_latents": 3,
        "site": "resid_post",
        "effect": "all",
        "direction": "denoise",
        "answer_start": "stem",
        "min_gap": 1.0,
        "controls": True,
        "seed": 0,
    },
    "config": {"pairs": "toy", "filter": "none", "seconds": 1.5},
    "pairs": {"digest": "e" * 64, "n_per_group": {"all": 4}},
    "versions": {"torch": "2"},
}


def data_of(page):
    """The JSON in a page."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(found.group(1))


@pytest.fixture(scope="module")
def page():
    runs = {"one": invented_sweep(), "two": invented_sweep("iterative_patching")}
    return report(runs, dict.fromkeys(runs, MANIFEST)), runs


def test_the_page_holds_every_metric_of_every_cell(page):
    data = data_of(page[0])
    for run, sweep in zip(data["runs"], page[1].values(), strict=True):
        assert {m["name"] for m in run["metrics"]} == set(sweep.outcomes[0].metrics)
        for i, pair in enumerate(run["pairs"]):
            for name, values in pair["values"].items():
                found = torch.tensor(
                    [
                        [[v if v is not None else torch.nan for v in row] for row in g]
                        for g in values
                    ]
                )
                wanted = sweep.values(name)[i]
                torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0, equal_nan=True)


def test_cells_under_the_donors_largest_effect_are_not_outlined(page):
    group = data_of(page[0])["runs"][0]["groups"]["all"]
    sweep = page[1]["one"]
    limit = donor_threshold(sweep, aggregate(sweep))
    assert group["threshold"]["recovery"] == pytest.approx(limit, rel=1e-5)
    values = group["mean"]["recovery"]
    above = [v for row in values[0] for v in row if abs(v) > limit]
    outlined = [values[0][i][j] for i, j in group["outlined"]["recovery"][0]]
    assert outlined == sorted(outlined, reverse=True)
    assert all(value > limit for value in outlined)
    assert 0 < len(outlined) <= min(5, len(above))


def test_text_cannot_become_markup(page):
    assert "<script>document" not in page[0]
    assert data_of(page[0])["runs"][0]["pairs"][0]["clean"]["question"].startswith(SCRIPT)
    assert json.loads(embedded({"a": "</script>\u2028"})) == {"a": "</script>\u2028"}
    assert "<" not in embedded("</script>")


def test_all_maps_of_a_metric_are_on_one_scale_also_of_two_runs():
    runs = {name: invented_sweep(seed=i, pairs=2) for i, name in enumerate(("one", "two"))}
    larger = [
        replace(o, metrics=o.metrics | {"logit_diff": 9 * o.metrics["logit_diff"]})
        for o in runs["two"].outcomes
    ]
    runs["two"] = replace(runs["two"], outcomes=tuple(larger))
    data = data_of(report(runs, dict.fromkeys(runs, MANIFEST)))
    for name, (low, high) in data["scales"].items():
        means = [g["mean"].get(name) for run in data["runs"] for g in run["groups"].values()]
        values = torch.tensor([v for m in means for v in flat(m) if v is not None])
        assert low <= values.min() <= values.max() <= high
    assert max(data["scales"]["recovery"]) > 1.2  # the second run's
    beside, apart = data["comparison"]["figures"]
    assert beside["layout"]["meta"]["title"] == "Side by side: recovery"
    assert "two − one" in str(apart["layout"]["annotations"])
    bar = beside["layout"]["coloraxis"]
    assert [bar["cmin"], bar["cmax"]] == pytest.approx(data["scales"]["recovery"], rel=1e-5)
    assert len({run["title"] for run in data["runs"]}) == 2


def test_the_interaction_is_a_map_of_its_own(page):
    run, sweep = data_of(page[0])["runs"][0], page[1]["one"]
    group = aggregate(sweep)
    total, direct, indirect = group.means["recovery"][:3]
    wanted = (total - direct - indirect).tolist()
    assert [panel["kind"] for panel in run["panels"]] == ["effect"] * 3 + ["control"] * 3 + [
        "interaction"
    ]
    for row, values in zip(run["groups"]["all"]["mean"]["recovery"][-1], wanted, strict=True):
        assert row == pytest.approx(values, rel=1e-5)
    assert len(run["groups"]["all"]["mean"]["kl_divergence"]) == 6


def flat(nested):
    if not isinstance(nested, list):
        return [nested]
    return [value for part in nested for value in flat(part)]


def test_the_page_fetches_nothing(page):
    outside = re.sub(r"<script.*?</script>", "", page[0], flags=re.S)
    assert "default-src 'none'" in outside
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", outside)


def test_57_pairs_of_96_cells_fit_in_15_megabytes():
    sweep = invented_sweep(pairs=57, layers=16, latents=6)
    size = len(report({"large": sweep}, {"large": MANIFEST}).encode())
    assert size <= 15_000_000, size


def test_what_a_report_lacks_is_said(page):
    runs = page[1]
    for given, message in (
        (({}, {}), "no runs"),
        ((runs, {"one": MANIFEST}), "no manifest of run 'two'; known are one"),
        (({"none": replace(runs["one"], outcomes=())}, {"none": MANIFEST}), "none has no pairs"),
        ((runs, dict.fromkeys(runs, MANIFEST), {"model_digest": "f" * 64}), "of another model"),
    ):
        with pytest.raises(UserError, match=message):
            report(*given)


def test_what_has_fewer_than_ten_cells_is_not_compared():
    for layers in (9, 10):
        runs = {
            name: invented_sweep(name, layers=layers, pairs=2)
            for name in ("position_patching", "layer_patching")
        }
        found, drawn = comparison(runs, dict.fromkeys(runs, MANIFEST))
        titles = [figure.layout.meta["title"] for figure in drawn]
        assert titles == ["Layer by layer: recovery"] * (layers == 10)
        assert [entry[::2] for entry in found["correlations"]] == [
            ["position-wise, largest cell / layer-wise, all positions", 10]
        ] * (layers == 10)


def test_runs_get_short_names_that_differ(tmp_path):
    a, b = tmp_path / "x" / "run", tmp_path / "y" / "run"
    assert list(distinct_names([tmp_path / "x", tmp_path / "y"])) == ["x", "y"]
    assert list(distinct_names([a, b])) == [str(a), str(b)]


def test_images_are_called_by_their_experiment(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(
        plots, "write_images", lambda _, figures, kind: drawn.append(dict(figures)) or []
    )
    asked = Namespace(images=tmp_path, format="png", paper=None)
    write_images(asked, {"one": invented_sweep()})
    write_images(asked, {"one": invented_sweep(), "two": invented_sweep("layer_patching")})
    assert "position_patching-recovery" in drawn[0]
    assert {"0-position_patching-recovery", "1-layer_patching-recovery"} <= set(drawn[1])
    asked.paper = "column"
    write_images(asked, {"one": invented_sweep()})
    assert {figure.layout.width for figure in drawn[2].values()} == {3.3 * 96}


def test_a_folder_without_a_record_is_one_message(tmp_path, capsys):
    assert main([str(tmp_path), "--out", str(tmp_path / "r.html")]) == 2
    assert "holds no finished record" in capsys.readouterr().err
    lent, other = tmp_path / "needed", tmp_path / "again"
    for folder in (lent, other):
        folder.mkdir()
        (folder / "necessity.json").write_text('{"model_digest": "d", "num_latents": 3}')
    assert main([str(lent), "--out", str(tmp_path / "r.html")]) == 2
    assert "is not what necessity writes" in capsys.readouterr().err
    assert main([str(lent), str(other), "--out", str(tmp_path / "r.html")]) == 2
    assert "2 necessity runs; a report takes one" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_the_commit_is_told_where_the_manifest_knows_it():
    code = {"commit": "f" * 40, "dirty": True}
    told = dict(summary(MANIFEST | {"origin": {"code": code}}))
    assert told["commit"] == "f" * 12 + ", changed since"
    for origin in ({}, {"origin": {"code": None}}):
        assert "commit" not in dict(summary(MANIFEST | origin))
