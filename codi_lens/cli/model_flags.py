"""The flags that choose a model and say what its files do not: the same for every program."""

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any

from codi_lens.choices import DTYPES
from codi_lens.cli.flags import path

if TYPE_CHECKING:
    from codi_lens import HookedCodi
    from codi_lens.model.pretrained import Pretrained

FLAGS = {
    "alpha": "--alpha",
    "num_latents": "--num-latents",
    "remove_eos": "--remove-eos or --no-remove-eos",
    "answer_stem": "--answer-stem",
    "base": "--base",
    "weights": "--weights",
    "projection": "--projection",
    "revision": "--revision",
}
"""Argument of `HookedCodi.from_pretrained` -> what stands for it on the command line."""
ARGUMENT = re.compile(rf"\b({'|'.join(FLAGS)})=(…|\"[^\"]*\")")


def add_model_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that `load_parts` reads, beside the model's name."""
    add = parser.add_argument
    add("--base", help="folder or hub id of the base model (default: as known)")
    add("--revision", help="branch, tag or commit on the hub (default: the newest)")
    add_device(parser)
    add_dtype(parser)
    add("--alpha", type=float, help="LoRA's alpha (default: as the files say)")
    add("--num-latents", type=int, help="number of thoughts (default: as trained)")
    add(
        "--remove-eos",
        action=argparse.BooleanOptionalAction,
        help="whether the model was trained without eos around the thoughts (default: as the files say)",
    )
    add("--answer-stem", help="text before the answer (default: as the files say)")
    add("--weights", metavar="NAME", help="name of the file of weights (default: the usual ones)")
    add(
        "--projection", type=path, metavar="FILE", help="file of the projection (default: as found)"
    )
    add(
        "--codi-config",
        type=path,
        metavar="FILE",
        help="settings in place of those in codi_config.json (default: that of the checkpoint)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """--device."""
    text = "'auto' (CUDA, else MPS, else the CPU), 'cpu', 'cuda', …"
    parser.add_argument("--device", default="auto", help=text)


def add_dtype(parser: argparse.ArgumentParser, default: str = "float32") -> None:
    """--dtype."""
    parser.add_argument(
        "--dtype", default=default, choices=DTYPES, help="number format of the model"
    )


def load_parts(
    arguments: argparse.Namespace, device: str | None = None, **more: Any
) -> "Pretrained":
    """The model that the flags ask for, on `device` if given; `more` goes to `load_pretrained`."""
    from codi_lens.checkpoint.config import FIELDS
    from codi_lens.checkpoint.fields import known_fields, read_object
    from codi_lens.model.pretrained import load_pretrained

    file = arguments.codi_config
    settings = {} if file is None else known_fields(read_object(file), FIELDS, str(file))
    flags = {
        "lora_alpha": arguments.alpha,
        "remove_eos": arguments.remove_eos,
        "answer_stem": arguments.answer_stem,
        "weights": arguments.weights,
    }
    return load_pretrained(
        arguments.model,
        base=arguments.base,
        revision=arguments.revision,
        device=device or arguments.device,
        dtype=arguments.dtype,
        projection=arguments.projection,
        **settings | {name: value for name, value in flags.items() if value is not None},
        **more,
    )


def load_model(arguments: argparse.Namespace, device: str | None = None) -> "HookedCodi":
    """The model that the flags ask for, on `device` if given, on as many threads as they say.

    Warns of more thoughts than it was taught.
    """
    from codi_lens import HookedCodi
    from codi_lens.memory import keep_freed_memory
    from codi_lens.threads import choose_threads

    unsaid = {"num_latents": arguments.num_latents}
    codi = HookedCodi.from_parts(load_parts(arguments, device, unsaid=unsaid), arguments.model)
    keep_freed_memory()
    choose_threads(codi.model.cfg.d_model, arguments.threads)
    trained = codi.config.num_latents
    if codi.num_latents(arguments.num_latents) > trained:
        print(
            f"warning: --num-latents {arguments.num_latents} is more than the {trained} that the model "
            "was trained with; what it makes of the rest is not known",
            file=sys.stderr,
        )
    return codi


def as_flags(message: str) -> str:
    """A message of the library, with flags where it advises arguments: alpha=… is --alpha …."""

    def flag(found: re.Match[str]) -> str:
        value = "" if found[1] == "remove_eos" else f" {found[2]}"
        return FLAGS[found[1]] + value

    return ARGUMENT.sub(flag, message)
