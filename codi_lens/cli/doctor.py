"""What works on this machine, and what would fix the rest?

Looks at versions, the device, the hub's cache, the optional extras, and a browser for images; then asks the
embedded model a question. `ok` works, `-` is not there and not needed for most things, `BROKEN` must be mended.
Nothing is downloaded, and no token is shown. Exit code 1 if something is broken.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from textwrap import fill

from codi_lens.cli.program import Program
from codi_lens.errors import UserError

OWN = "codi-lens"
GIB = 2**30
WIDTH = 100
EXTRAS = {
    "data": "results as tables and datasets",
    "export": "figures as PNG, SVG and PDF files",
    "notebook": "figures in notebooks",
}
"""Those that users have a use for; what each brings."""
MOST_NAMES = 5
"""Of models in the cache, on a line."""


@dataclass(frozen=True)
class Finding:
    """A line of the report: `ok` is None for something optional that is not there."""

    ok: bool | None
    text: str
    fix: str = ""

    def line(self, name: str) -> str:
        """As it is printed."""
        mark = {True: "ok", None: "-", False: "BROKEN"}[self.ok]
        start, below = f"{mark:<7}{name:<14}", " " * 21
        lines = [fill(self.text, WIDTH, initial_indent=start, subsequent_indent=below)]
        lines += [f"{below}-> {self.fix}"] if self.fix else []
        return "\n".join(lines)


def package() -> Iterator[Finding]:
    """Version, commit, Python, system."""
    import platform

    from codi_lens.records.origin import describe_code

    code = describe_code()
    changed = " and changes since" if code and code["dirty"] else ""
    commit = f", commit {str(code['commit'])[:12]}{changed}" if code else ""
    text = f"{version(OWN)}{commit}; Python {platform.python_version()}, {platform.platform()}"
    yield Finding(True, text)


def dependencies() -> Iterator[Finding]:
    """Whether each is there, in a version that was tested."""
    found, wrong = _versions("")
    listed = ", ".join(f"{name} {number}" for name, number in found.items())
    if wrong:
        yield Finding(False, "; ".join(wrong), "in its folder: pip install -e .")
    else:
        yield Finding(True, listed)


def extras() -> Iterator[Finding]:
    """Which optional parts can be used."""
    looked = {extra: _versions(extra) for extra in EXTRAS}
    here = [f"[{extra}]" for extra, (found, wrong) in looked.items() if found and not wrong]
    if here:
        yield Finding(True, ", ".join(here))
    for extra, wrong in ((extra, wrong) for extra, (_, wrong) in looked.items() if wrong):
        text = f"[{extra}], for {EXTRAS[extra]}: {'; '.join(wrong)}"
        yield Finding(None, text, f"pip install '{OWN}[{extra}]'")


def device() -> Iterator[Finding]:
    """What there is to calculate on, and what `--device auto` takes."""
    import torch

    from codi_lens.memory import free_memory
    from codi_lens.model.devices import pick_device
    from codi_lens.records.origin import device_name

    auto = pick_device(str(pick_device("auto")))
    cpu = torch.device("cpu")
    yield Finding(
        True,
        f"--device auto is {auto.type}, {device_name(auto)}, {free_memory(auto) / GIB:.1f} GiB free; "
        f"CPU: {os.cpu_count()} cores, {torch.get_num_threads()} used by torch, {free_memory(cpu) / GIB:.1f} GiB free",
    )
    if auto.type == "cpu":
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        yield Finding(None, f"no CUDA device and no MPS (this torch was built {built})")


def cache() -> Iterator[Finding]:
    """The hub's cache, and whether anything but it is asked."""
    from huggingface_hub import constants, get_token, scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    from codi_lens.checkpoint.known import known_checkpoints

    folder = constants.HF_HUB_CACHE
    try:
        scan = scan_cache_dir()
        known = sorted({repo.repo_id for repo in scan.repos} & set(known_checkpoints()))
        more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
        names = f"; known checkpoints: {', '.join(known[:MOST_NAMES])}{more}" if known else ""
        size = f"{scan.size_on_disk / GIB:.1f} GiB in {len(scan.repos)} repositories"
        yield Finding(True, f"{folder}: {size}{names}")
    except CacheNotFound:
        yield Finding(None, f"{folder}: nothing there yet")
    if constants.HF_HUB_OFFLINE:
        fix = "unset HF_HUB_OFFLINE to download"
        yield Finding(None, "offline (HF_HUB_OFFLINE): models come from the cache alone", fix)
    if get_token() is None:
        fix = "hf auth login, or a mirror: --base unsloth/Llama-3.2-1B-Instruct"
        yield Finding(None, "no token: gated base models cannot be downloaded", fix)
    else:
        yield Finding(True, "a token for the hub is there")


def images() -> Iterator[Finding]:
    """Whether a figure can be drawn into a file."""
    import plotly.graph_objects as go

    from codi_lens import plots

    try:
        plots.to_image(go.Figure())
    except UserError as error:
        yield Finding(None, str(error))
    else:
        yield Finding(True, "kaleido and a browser draw figures into files")


def model() -> Iterator[Finding]:
    """Whether the embedded model answers as it did when it was made."""
    from codi_lens import HookedCodi, load_pairs
    from codi_lens.threads import choose_threads

    codi = HookedCodi.from_pretrained("toy")
    choose_threads(codi.model.cfg.d_model)
    asked = load_pairs("toy")[0].clean
    said, expected = codi.generate(asked.question), f"{codi.config.answer_stem}{asked.answer}"
    right = said == expected
    fix = "" if right else f"{expected!r} is right; run the tests: pytest tests/model"
    yield Finding(right, f"the embedded model says {said!r}", fix)


CHECKS: dict[str, Callable[[], Iterator[Finding]]] = {
    "package": package,
    "dependencies": dependencies,
    "extras": extras,
    "device": device,
    "hub": cache,
    "images": images,
    "model": model,
}


def examine(arguments: argparse.Namespace) -> bool:
    """Prints what each check finds, as it comes; whether nothing is broken."""
    healthy = True
    for name, check in CHECKS.items():
        for finding in _tried(check):
            print(finding.line(name), flush=True)
            healthy &= finding.ok is not False
    return healthy


def _tried(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """What a check finds; whatever keeps it from looking is a finding too."""
    try:
        yield from check()
    except PackageNotFoundError:
        fix = "in its folder: pip install -e ."
        yield Finding(False, f"{OWN} is not installed, only on the path", fix)
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0][:200]
        yield Finding(False, f"{type(error).__name__}: {first}")


def _versions(extra: str) -> tuple[dict[str, str], list[str]]:
    """Of what an extra ("": the package itself) needs: name -> version; and what is wrong with others."""
    from packaging.requirements import Requirement

    found, wrong = {}, []
    for requirement in map(Requirement, requires(OWN) or ()):
        marker = requirement.marker  # extra == "…", or none
        if not (marker.evaluate({"extra": extra}) if marker else not extra):
            continue
        try:
            number = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if requirement.specifier.contains(number, prereleases=True):
            found[requirement.name] = number
        else:
            wrong.append(f"{requirement.name} {number} is not {requirement.specifier}")
    return found, wrong


def add_flags(parser: argparse.ArgumentParser) -> None:
    """None of its own."""


main = Program("doctor", __doc__, add_flags, examine)
