"""The pages of the documentation say what is so: their Python, commands, names, quotations and tables."""

import ast
import importlib.util
import re
import shlex
from inspect import signature
from pathlib import Path

import pytest

import codi_lens
from codi_lens.cli.main import NAMES, program
from codi_lens.organisms.scorecard.methods import METHODS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = {str(page.relative_to(DOCS)): page.read_text() for page in sorted(DOCS.rglob("*.md"))}
COMMANDS = [
    line
    for text in PAGES.values()
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    for line in block.replace("\\\n", "").strip().splitlines()
]
ELSEWHERE = {"pip install -e .", "hf auth login"}
"""Commands of other programs."""


@pytest.fixture(scope="module")
def hooks():
    """What fills in the pages when the site is built."""
    spec = importlib.util.spec_from_file_location("docs_hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def python_of(text):
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.mark.parametrize("page", [name for name, text in PAGES.items() if python_of(text)])
def test_the_python_of_a_page_runs(page):
    scope = {}
    for block in python_of(PAGES[page]):
        exec(compile(block, page, "exec"), scope)


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page):
    text = PAGES[page]
    for name in re.findall(r"`((?:codi_lens|notebooks|tests)/[\w/.]+)`", text):
        assert (ROOT / name).exists(), name
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert ((DOCS / page).parent / picture).exists(), picture
    for name in re.findall(r"`codi-lens ([a-z_]+)", text):
        assert name in NAMES


def test_every_command_of_the_pages_is_one_with_flags_that_it_has():
    """README's commands are run; these are read as their programs read them."""
    assert len(COMMANDS) > len(PAGES) / 2
    for command in COMMANDS:
        first, *words = shlex.split(command)
        if command in ELSEWHERE:
            continue
        assert first == "codi-lens", command
        assert program(words[0]).parser().parse_args(words[1:]), command


def test_every_call_that_a_page_mentions_has_such_options():
    calls = [
        ast.parse(code, mode="eval").body
        for text in PAGES.values()
        for code in re.findall(r"`(\w+\([^`…]*\))`", text)
    ]
    ours = [call for call in calls if call.func.id in codi_lens.__all__]
    assert len(ours) > 5
    for call in ours:
        options = {option.arg: None for option in call.keywords}
        signature(getattr(codi_lens, call.func.id)).bind(*call.args, **options)


def test_the_reference_has_every_public_name():
    for name in codi_lens.__all__:
        assert re.search(rf"\[`{name}`\]\[codi_lens\.", PAGES["reference/index.md"]), name


def test_every_table_of_the_pages_is_filled_in(hooks):
    for page, text in PAGES.items():
        assert "<!--" not in hooks.expanded(text), page
        for methods in re.findall(r"<!-- scorecard: (.+?) -->", text):
            assert set(methods.split(", ")) <= set(METHODS), methods
    known = hooks.expanded(PAGES["checkpoints.md"])
    assert "| `zen-E/CODI-gpt2` | openai-community/gpt2 | 6 | 43.7% on gsm8k" in known


def test_scores_on_pages_are_those_of_the_organisms_page(hooks):
    printed = PAGES["organisms.md"].split("AUROC of |score|")[1].splitlines()
    head = printed[1].split()
    (row,) = [line for line in printed[:25] if line.startswith("position-wise direct")]
    filled = hooks.scorecard("position-wise direct").splitlines()
    names, cells = ([cell.strip() for cell in filled[i].split("|")[2:-1]] for i in (0, 2))
    assert names == head
    assert [cell for cell in cells if cell] == row.split()[2:], "values move to no other organism"
    assert cells[names.index("bypass")] == "", "which has no true cell"


def test_every_error_that_is_explained_is_one_of_the_code():
    texts = {
        "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
        if isinstance(node, ast.JoinedStr)
        else node.value
        for path in (ROOT / "codi_lens").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.JoinedStr)
        or (isinstance(node, ast.Constant) and isinstance(node.value, str))
    }
    headings = re.findall(r"^### (.+)$", PAGES["troubleshooting.md"], re.M)
    assert len(headings) > 20
    for heading in headings:
        parts = [re.escape(part) for part in heading.split("…")]
        wanted = re.compile(".*".join(parts), re.DOTALL)
        assert any(wanted.search(text) for text in texts), heading
