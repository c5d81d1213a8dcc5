"""The tensors of a checkpoint, from all the files that it consists of.

Most checkpoints are one file. A peft adapter goes with the base model's weights, and a model that transformers
or peft has saved goes with a projection in a file of its own.
"""

from pathlib import Path
from typing import Any

from codi_lens.checkpoint.architectures import Architecture
from codi_lens.checkpoint.fields import positive, read_object, size, texts
from codi_lens.checkpoint.hub import ModelFiles
from codi_lens.checkpoint.layouts.separate import ADAPTER, MERGED, PROJECTOR
from codi_lens.checkpoint.tensor_files import ADAPTERS, CheckpointError, TensorFile
from codi_lens.errors import UserError
from codi_lens.files import expand

PROJECTIONS = ("prj.safetensors", "prj.pt")
ADAPTER_CONFIG = "adapter_config.json"
PLAIN_LORA: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_rslora": (False, None),
    "use_dora": (False, None),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None,),
}
"""Fields of `adapter_config.json` that make an adapter another map than W + alpha / r · B · A, and what they
have to be."""


def open_checkpoint(
    files: ModelFiles,
    base: ModelFiles,
    architecture: Architecture,
    *,
    weights: str | None = None,
    projection: str | Path | None = None,
) -> TensorFile:
    """Opens the weights in `files`, with what belongs to them.

    Args:
        files: of the checkpoint.
        base: of the base model, whose weights an adapter goes with.
        architecture: the base model's.
        weights: the file to take, where it has no usual name.
        projection: its file; None: one that lies beside the weights, if any.

    Raises:
        CheckpointError: a damaged file.
        UserError: no weights.
    """
    file = TensorFile.open(files.weights(weights))
    if file.path.name in ADAPTERS:
        file = _on_base(file, _in_full(TensorFile.open(base.weights()), architecture))
    file = _in_full(file, architecture)
    path = next((p for name in PROJECTIONS if (p := files.get(name))), None)
    if projection is not None:
        path = expand(projection)
        if not path.is_file():
            raise UserError(f"projection {str(projection)!r}: no such file")
    if path is None:
        return file
    apart = TensorFile.open(path).renamed(_under_projection)
    if twice := set(file.keys()) & set(apart.keys()):
        raise CheckpointError(
            f"{path}: holds {len(twice)} tensors that {file.path} holds too; expected the projection in one "
            "of them"
        )
    return file.joined(apart)


def adapter_settings(files: ModelFiles) -> dict[str, Any]:
    """What `adapter_config.json` says of an adapter, as fields of `CodiConfig`; nothing where there is none.

    Raises:
        UserError: an adapter of another kind; names the field.
    """
    path = files.get(ADAPTER_CONFIG)
    if path is None:
        return {}
    values = read_object(path)
    for name, known in PLAIN_LORA.items():
        if values.get(name) not in known:
            raise UserError(
                f"{path}: field {name!r} is {values.get(name)!r}; an adapter can be merged where it is "
                f"{' or '.join(map(repr, known))}"
            )
    where = f"{path}: field"
    settings: dict[str, Any] = {
        "lora_alpha": positive(values.get("lora_alpha"), f"{where} 'lora_alpha'"),
        "lora_rank": size(values.get("r"), f"{where} 'r'"),
    }
    if isinstance(targets := values.get("target_modules"), list):
        settings["lora_targets"] = texts(targets, f"{where} 'target_modules'")
    if isinstance(base := values.get("base_model_name_or_path"), str) and base:
        settings["base_model"] = base
    return settings


def _on_base(adapter: TensorFile, base: TensorFile) -> TensorFile:
    """An adapter with the weights that it goes with; a whole tensor that it holds takes the base's place."""

    def name_of(key: str) -> str:
        own = key.removeprefix(ADAPTER.adapters)
        return key if ".lora_" in key else own

    found = base.joined(adapter.renamed(name_of))
    found.path = adapter.path
    return found


def _under_projection(key: str) -> str:
    return key if key.startswith(str(MERGED.projection)) else f"{MERGED.projection}{key}"


def _in_full(file: TensorFile, architecture: Architecture) -> TensorFile:
    """The file with full names, where a base model was saved without what is around it.

    The hub's GPT-2 has `h.0…` for `transformer.h.0…`.
    """
    around = architecture.embedding.partition(".")[0] + "."
    bare = architecture.layers.removeprefix(around)
    if not any(key.startswith(bare) for key in file.keys()):  # noqa: SIM118 - a file is no mapping
        return file
    apart = (architecture.head, str(MERGED.projection), str(PROJECTOR.projection))
    return file.renamed(lambda key: key if key.startswith(apart) else around + key)
