"""What pages are given when the site is built, as `mkdocs.yml` asks: pictures, and tables from what the package knows.

A comment in a page stands for a table, so that no figure is written down twice:

    <!-- scorecard: position-wise total -->    methods' rows of the tables in organisms.md
    <!-- known checkpoints -->                 the public checkpoints with known settings
    <!-- mirrors -->                           gated base models, and their ungated copies
    <!-- schema version -->                    of records
    <!-- table of README.md: | file -->        the table there that begins so
    <!-- section of CONTRIBUTING.md: Test -->  the section there of this name

Nothing of the package is imported: a site is built where torch is not.
"""

import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "notebooks" / "figures"
TABLES = {
    "AUROC": "AUROC of |score|",
    "false positives": "false positives",
    "IIA": "interchange accuracy",
}
"""What a table of organisms.md is called on other pages -> how its first line begins."""
MARK = re.compile(r"<!-- (?P<what>[a-z ]+?)(?: of (?P<file>\w+\.md))?(?:: (?P<name>[^>]+))? -->")
ELSEWHERE = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?https?:[^>]*>")


def expanded(text: str) -> str:
    """A page's Markdown, with tables for the comments that stand for them."""

    def put_in(found: re.Match[str]) -> str:
        what, file, name = found["what"], found["file"], found["name"]
        if file:
            return {"table": _table_of, "section": _section_of}[what](ROOT / file, name)
        if name:
            return {"scorecard": scorecard}[what](name)
        known = {"known checkpoints": checkpoints, "mirrors": mirrors, "schema version": schema}
        return known[what]()

    return MARK.sub(put_in, text)


def scorecard(methods: str) -> str:
    """What methods (names between commas) scored on every organism, as organisms.md has it."""
    organisms, rows = [], []
    for method in methods.split(", "):
        for name, beginning in TABLES.items():
            head, *lines = _block(beginning)
            starts = [found.start() for found in re.finditer(r"\S+", head)]
            ends = [found.end() for found in re.finditer(r"\S+", head)]
            organisms = head.split()
            for line in lines:
                if line[: starts[0]].strip() == method:
                    cells = [
                        line[a:b].strip() for a, b in zip([starts[0], *ends], ends, strict=False)
                    ]
                    rows.append([f"{method}, {name}", *cells])
    if not rows:
        return "The tables of organisms have no row of it yet."
    return _table(["", *organisms], rows)


def _block(beginning: str) -> list[str]:
    """The lines of a table of organisms.md, below the first, which begins so."""
    lines = (ROOT / "docs" / "organisms.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(beginning)) + 1
    end = next(i for i, line in enumerate(lines[start:], start) if set(line) <= set(" `"))
    return lines[start:end]


def checkpoints() -> str:
    """The public checkpoints whose settings are known, with what was published of each."""
    rows = []
    for name, entry in _known()["checkpoints"].items():
        config = entry.get("config", {})
        scores = [
            f"{score['accuracy']:.1%} on {data} ({score['source']})"
            for data, score in entry.get("published", {}).items()
        ]
        base, latents = config.get("base_model", "in the files"), config.get("num_latents", "")
        rows.append([f"`{name}`", base, str(latents), "; ".join(scores), entry["source"]])
    owners = sorted({f"`{entry['id'].partition('/')[0]}/…`" for entry in _known()["patterns"]})
    head = ["id", "base", "thoughts", "published", "source of the settings"]
    return f"{_table(head, rows)}\n\nBy the pattern of their names: {', '.join(owners)}."


def mirrors() -> str:
    """Gated base models and their ungated copies."""
    rows = [[f"`{n}`", f"`{e['mirror']}`", e["source"]] for n, e in _known()["mirrors"].items()]
    return _table(["gated", "mirror", ""], rows)


def schema() -> str:
    """The version of the format of records."""
    text = (ROOT / "codi_lens" / "records" / "manifest.py").read_text()
    return re.search(r"^SCHEMA_VERSION = (\d+)$", text, re.M)[1]


def _table_of(path: Path, beginning: str) -> str:
    """The table of a file whose first line begins so."""
    lines = path.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(beginning))
    return "\n".join(takewhile(lambda line: line.startswith("|"), lines[start:]))


def _section_of(path: Path, name: str) -> str:
    """What stands below a heading of a file, up to the next of its kind."""
    _, _, below = path.read_text().partition(f"\n## {name}\n")
    if not below:
        raise LookupError(f"{path.name} has no section {name!r}")
    return below.partition("\n## ")[0].strip()


def _known() -> dict[str, Any]:
    path = ROOT / "codi_lens" / "checkpoint" / "known_checkpoints.json"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def on_files(files: Any, *, config: Any) -> Any:
    """Adds the pictures, which are kept beside the notebooks."""
    from mkdocs.structure.files import File

    for path in sorted(FIGURES.glob("*.png")):
        name = f"figures/{path.name}"
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Puts in tables, and leads to the pictures where the site has them."""
    up = "../" * page.file.src_uri.count("/")
    return re.sub(r"\((?:\.\./)+notebooks/figures/", f"({up}figures/", expanded(markdown))


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Refuses a page that would fetch something when it is read."""
    if found := ELSEWHERE.search(output):
        raise ValueError(f"{page.file.src_uri} fetches {found[0]}")
    return output
