"""How runs were measured, from their manifests: a paragraph to be quoted, and all settings as a table."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from codi_lens import plots
from codi_lens.analysis.aggregates import RESAMPLES
from codi_lens.analysis.grids import panels
from codi_lens.patching.result import Sweep
from codi_lens.report.words import LEVEL, scope


def paragraph(runs: Mapping[str, Sweep], manifests: Mapping[str, Mapping[str, Any]]) -> str:
    """How it was measured, ready to be quoted: as HTML."""
    used = [manifests[name] for name in runs]
    models = _each(
        f"{model['name']} ({model['num_layers']} layers, {manifest['settings']['num_latents']} latent thoughts, "
        f"{model['dtype']}, weights with SHA-256 {model['digest'][:12]}…)"
        for manifest in used
        for model in [manifest["model"]]
    )
    gap = _each(f"{sweep.settings.min_gap:g}" for sweep in runs.values())
    seed = _each(str(sweep.settings.seed) for sweep in runs.values())
    parts = [
        f"We intervene on {models}.",
        *(_run(sweep, manifests[name]) for name, sweep in runs.items()),
        "Recovery is (LD patched − LD base) / (LD source − LD base), LD being the logit of the clean minus that of the "
        "corrupted answer at the first token in which they differ; over pairs it is the ratio of sums, without pairs "
        f"whose runs are closer than {gap} in LD. Intervals are {LEVEL} percentile bootstrap intervals over pairs "
        f"({RESAMPLES:,} resamples, seed {seed}).",
        "Software: "
        + _each(
            f"{name} {number}" for manifest in used for name, number in manifest["versions"].items()
        )
        + ".",
    ]
    return escape(" ".join(parts))


def _run(sweep: Sweep, manifest: Mapping[str, Any]) -> str:
    """What was run, over what."""
    maps = "; ".join(plots.panel_title(panel) for panel in panels(sweep))
    return (
        f"{sweep.experiment.heading} ({scope(sweep)}) over {len(sweep.pairs)} pairs (SHA-256 "
        f"{manifest['pairs']['digest'][:12]}…); maps: {maps}."
    )


def _each(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def summary(manifest: dict[str, Any]) -> list[list[str]]:
    """What a run was, as rows of name and value."""
    model, settings, config = manifest["model"], manifest["settings"], manifest["config"]
    said = {
        "model": f"{model['name']} (SHA-256 {model['digest'][:12]}…)",
        "layers, thoughts": f"{model['num_layers']}, {settings['num_latents']}",
        "dtype, device": f"{model['dtype']}, {model['device']}",
        "pairs": f"{config.get('pairs')} (SHA-256 {manifest['pairs']['digest'][:12]}…)",
        "filter": config.get("filter"),
        "seconds": config.get("seconds"),
    }
    said |= {f"pairs: {k}": n for k, n in manifest["pairs"]["n_per_group"].items()}
    shown = (
        "site",
        "intervention",
        "effect",
        "direction",
        "answer_start",
        "min_gap",
        "controls",
        "seed",
    )
    said |= {name: settings.get(name) for name in shown}
    said |= {f"version of {k}": v for k, v in manifest["versions"].items()}
    if code := manifest.get("origin", {}).get("code"):
        said["commit"] = f"{code['commit'][:12]}{', changed since' if code['dirty'] else ''}"
    return [[name, "–" if value is None else str(value)] for name, value in said.items()]
