"""From a model's name to all its parts: weights, projection, tokenizer, settings.

Settings that the tensors do not show (alpha, number of thoughts, layout, stem) come from the caller, else from
`codi_config.json` beside the weights, else from the table of known checkpoints. If none of them has a setting, an
error names it.
"""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from codi_lens.checkpoint.architectures import Architecture, architecture_of, read_base_config
from codi_lens.checkpoint.config import CONFIG_NAME, FIELDS, REQUIRED, CodiConfig, require
from codi_lens.checkpoint.fields import check_fields, optional, read_object, text
from codi_lens.checkpoint.hub import TOKENIZER, ModelFiles, model_files
from codi_lens.checkpoint.known import known_config, refusal
from codi_lens.checkpoint.layouts import Layout, layout_of
from codi_lens.checkpoint.load_report import LoadReport, measure_peak
from codi_lens.checkpoint.merge import embedding_rows, load_checkpoint
from codi_lens.checkpoint.parts import adapter_settings, open_checkpoint
from codi_lens.checkpoint.tensor_files import CheckpointError, TensorFile, model_digest
from codi_lens.errors import UserError
from codi_lens.files import read_text
from codi_lens.memory import enough_memory
from codi_lens.model.devices import pick_device, pick_dtype
from codi_lens.model.tokens import CodiTokens, UnfitSetting


@dataclass
class Pretrained:
    """A model as loaded, before hooks: plain transformers and torch."""

    model: PreTrainedModel
    """The base model with its adapters merged in."""
    projection: nn.Sequential | None
    tokenizer: PreTrainedTokenizerBase
    config: CodiConfig
    report: LoadReport


def load_pretrained(
    name_or_folder: str | Path,
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | str = torch.float32,
    projection: str | Path | None = None,
    unsaid: Mapping[str, Any] | None = None,
    **given: Any,
) -> Pretrained:
    """Loads what `HookedCodi.from_pretrained` wraps; the arguments are the same.

    Args:
        unsaid: fields of `CodiConfig` for what neither caller nor files say.
        given: fields of `CodiConfig`. Here and there, those that are None are left to the files.

    Raises:
        UserError: as `from_pretrained` does.
    """
    if why := refusal(str(name_or_folder)):
        raise UserError(f"{name_or_folder}: {why}")
    dtype = pick_dtype(dtype)
    where = pick_device(device, dtype)
    files = model_files(name_or_folder, revision)
    settings = read_settings(files, given, unsaid or {})
    own_tokenizer = files.tokenizer()
    base_files = _base_files(files, base, settings.text("base_model"), bool(own_tokenizer))
    config_path = base_files.require("config.json")
    base_config = read_base_config(config_path)
    architecture = architecture_of(base_config.model_type)
    tokenizer = read_tokenizer(own_tokenizer or base_files.tokenizer(), base_files)
    with enough_memory(files.name):
        file = open_checkpoint(
            files,
            base_files,
            architecture,
            weights=settings.text("weights"),
            projection=projection,
        )
        layout = layout_of(file)
        config = settings.config(layout, file.keys())
        with settings.blamed():
            tokens = _fit_vocabulary(file, layout, architecture, base_config, tokenizer, config)
        architecture.check_sizes(base_config, config_path, file, layout)
        merged = load_checkpoint(file, layout, base_config, config, dtype=dtype, device=where)
    report = merged.report
    report.files = file.digests()
    report.digest = model_digest(report.files.values())
    report.num_latents, report.answer_stem = config.num_latents, config.answer_stem
    report.sequence = tokens.sequence()
    report.special_ids = {k: v for k, v in asdict(tokens.ids).items() if v is not None}
    measure_peak(report, where)
    return Pretrained(merged.model, merged.projection, tokenizer, config, report)


@dataclass(frozen=True)
class Settings:
    """Fields of `CodiConfig`, and where they are from."""

    values: dict[str, Any]
    given: frozenset[str]
    """Those that the caller says."""
    where: str
    """What says, or should say, the others."""

    def text(self, name: str) -> str | None:
        """A field that is needed before there is a config."""
        found: str | None = optional(text)(self.values.get(name), f"{self.where}: field {name!r}")
        return found

    def config(self, layout: Layout, keys: Collection[str]) -> CodiConfig:
        """The config of a checkpoint in this layout with these keys.

        Raises:
            UserError: a setting that nothing says, or that is none.
        """
        undecided = layout.undecided(self.values, keys)
        config = CodiConfig.from_mapping(self.values, self.where, undecided)
        return layout.complete(config, self.where)

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Inside, a setting that does not suit the tokenizer is blamed on what says it."""
        try:
            yield
        except UnfitSetting as error:
            where = "settings given" if error.field in self.given else self.where
            raise UserError(f"{where}: {error}") from error


def read_settings(
    files: ModelFiles, given: Mapping[str, Any], unsaid: Mapping[str, Any]
) -> Settings:
    """Caller, then `codi_config.json`, an adapter's config, the table of known checkpoints, then `unsaid`."""
    path = files.get(CONFIG_NAME)
    values = _settings(unsaid) | known_config(files.name) | adapter_settings(files)
    if path is not None:
        values |= read_object(path)
    said = _settings(given)
    where = files.name if path is None else str(path)
    if files.on_hub:  # what is needed in any case is asked for before anything large is downloaded
        require(values | said, REQUIRED, where)
    return Settings(values | said, frozenset(said), where)


def _settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a caller says, checked apart, so that no file is blamed for it."""
    said = {field: value for field, value in given.items() if value is not None}
    return check_fields(said, FIELDS, "settings given")


def read_tokenizer(paths: Sequence[Path], base: ModelFiles) -> PreTrainedTokenizerBase:
    """The tokenizer in these files, of one folder; code that may lie there is never run."""
    if not paths:
        raise base.lacks(TOKENIZER)
    # In a folder of their own: the library would trip over empty files beside them. And without the model's config
    # where the tokenizer names its class: for some models, the library would take another that cuts text otherwise.
    named = any(
        p.name == "tokenizer_config.json" and "tokenizer_class" in read_object(p) for p in paths
    )
    with TemporaryDirectory() as copies:
        for path in (p for p in paths if not (named and p.name == "config.json")):
            Path(copies, path.name).write_text(_for_tokenizer(path), encoding="utf-8")
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                copies, local_files_only=True, trust_remote_code=False
            )
            # Some damages show only in use.
            tokenizer("0")
            tokenizer.convert_tokens_to_ids(tokenizer.all_special_tokens)
        except BaseException as error:
            # The tokenizers library raises bare Exceptions for damaged files, or panics, which is none.
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{paths[0]}: not a readable tokenizer ({reason})") from error
    tokenizer.name_or_path = str(paths[0].parent)
    return tokenizer


def _for_tokenizer(path: Path) -> str:
    """A tokenizer's file as text, without a byte-order mark; of the model's config only what names the class."""
    values = read_object(path) if path.suffix == ".json" else {}  # refuses a key given twice
    if path.name != "config.json":
        return read_text(path)
    names = ("model_type", "tokenizer_class")
    return json.dumps({name: values[name] for name in names if isinstance(values.get(name), str)})


def _base_files(
    files: ModelFiles, base: str | Path | None, named: str | None, own_tokenizer: bool
) -> ModelFiles:
    """Where the base model's config is, and its tokenizer unless the checkpoint has its own.

    That is `base` if given; else beside the weights, if all is there; else the named base.
    """
    if base is not None:
        return model_files(base)
    has_config = files.get("config.json") is not None
    if has_config and (own_tokenizer or named is None):
        return files
    if named is None:
        raise UserError(
            f"{files.lacks('config.json')}, and the base model is not known; give base=… (a folder or a "
            f"hub id) or base_model in {CONFIG_NAME}"
        )
    return model_files(named)


def _fit_vocabulary(
    file: TensorFile,
    layout: Layout,
    architecture: Architecture,
    base: PretrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    config: CodiConfig,
) -> CodiTokens:
    """Checks tokenizer, special tokens and embedding rows against each other, before loading.

    A `config.json` beside the weights may count the extra rows in. Where the tokenizer's
    ids show that it does, `base.vocab_size` is set back to the base's.
    """
    rows, extra = embedding_rows(file, layout, architecture), config.extra_tokens or ()
    ids = set(tokenizer.get_vocab().values())  # with gaps, maybe
    # A tokenizer saved after training may have a token for pad, the first of CODI's rows, or for all of Coconut's.
    room = rows - len(extra) - 1
    if extra[:1] == ("pad",):
        room += 1
    else:
        ids -= {i for i in tokenizer.get_added_vocab().values() if room < i < rows}
    highest = max(ids, default=-1)
    if rows == base.vocab_size and extra and room - 1 <= highest <= room:
        base.vocab_size -= len(extra)
    if highest > room:
        last = f", the last {len(extra)} for {', '.join(extra)}" if extra else ""
        raise CheckpointError(
            f"{file.path}: the tokenizer has ids up to {highest}; expected at most {room}, as the "
            f"embedding has {rows} rows{last} (is it another model's tokenizer, or does it name bot_token and "
            "eot_token itself?)"
        )
    try:
        return CodiTokens(tokenizer, config, rows, base.max_position_embeddings)
    except UnfitSetting:
        raise
    except UserError as error:
        raise UserError(f"{tokenizer.name_or_path}: {error}") from error
