"""What comes with the package or is made by it, by name.

A name stands for a folder, or for the function that makes the entries. So the code that loads models and pairs
need not import the code that makes them.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent / "organisms"
EMBEDDED = {
    "toy": _HERE / "toy" / "model",
    "toy-gpt2": _HERE / "toy" / "model_gpt2",
    "toy-coconut": _HERE / "toy" / "model_coconut",
}
"""Name of an embedded model -> its folder, in an official layout."""
ORGANISMS = {
    folder.name: folder
    for folder in sorted((_HERE / "planted" / "models").glob("*"))
    if folder.is_dir()
}
"""Name of a model with a planted mechanism -> its folder, in CODI's layout."""
MODELS = EMBEDDED | {f"organism:{name}": folder for name, folder in ORGANISMS.items()}
"""What loads by name -> its folder."""
PAIRS = {name: folder / "pairs.json" for name, folder in MODELS.items()}
"""Name of a set of pairs -> its file."""
MADE_PAIRS = {
    "toy-heldout": "codi_lens.organisms.toy.pairs:heldout_pairs",
    "gsm8k": "codi_lens.data.counterfactuals.named:gsm8k",
    "gsm8k-aug": "codi_lens.data.counterfactuals.named:gsm8k_aug",
    "prosqa": "codi_lens.data.counterfactuals.named:prosqa",
}
"""Name of a set of pairs that is made when it is asked for -> the function that makes its entries."""


def made_pairs(name: str) -> list[dict[str, Any]]:
    """The entries of one of `MADE_PAIRS`, in the prepared format."""
    module, _, function = MADE_PAIRS[name].partition(":")
    entries: list[dict[str, Any]] = getattr(import_module(module), function)()
    return entries
