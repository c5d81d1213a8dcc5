"""What a CODI checkpoint's tensors cannot say: `codi_config.json` and its Python twin.

The LoRA rank, its target modules, the projection's width and its layer norm are read from the tensors. The
LoRA scale's numerator, the number of latent thoughts and the layout of the special tokens are not in
them, and a wrong guess loads silently into another model. They therefore come from this record, and
nothing in it that matters has a default.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

from codi_lens.errors import UserError
from codi_lens.layout import OWN_PREFIXES

CONFIG_NAME = "codi_config.json"


@dataclass(frozen=True)
class CodiConfig:
    """Everything about a CODI model beside its tensors and its LLaMA config.

    The last four fields are expectations: where given, the tensors must agree with them.
    """

    lora_alpha: float
    """LoRA's alpha; every adapter is scaled by alpha / rank."""
    num_latents: int
    """Number N of latent thoughts that the model was trained with."""
    remove_eos: bool
    """True: `[question][bot] … [eot][answer]`; False: `[question][eos][bot] … [eot][eos][answer]`."""
    answer_stem: str
    """Text between the end token and the answer's number, e.g. "The answer is: "; may be empty."""
    bot_token: str | None = None
    """The tokenizer's own token that begins the thoughts; None: id V + 1 (V: base vocabulary)."""
    eot_token: str | None = None
    """The tokenizer's own token that ends the thoughts; None: id V + 2."""
    base_model: str | None = None
    """Hub id that holds the LLaMA config and the tokenizer, where they are not beside the weights."""
    drop_prefixes: tuple[str, ...] = ()
    """Prefixes of keys that inference has no use for (e.g. "decoder."), dropped and counted."""
    has_projection: bool = True
    """False: the final state is fed back as it is. True: a file without `prj.*` is refused."""
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] | None = None
    projection_dim: int | None = None
    projection_layer_norm: bool | None = None

    def __post_init__(self) -> None:
        if not 0 < self.lora_alpha < float("inf"):
            raise UserError(f"lora_alpha is {self.lora_alpha}; it must be positive and finite")
        if self.num_latents < 0:
            raise UserError(f"num_latents is {self.num_latents}; it must be 0 or more")
        if (self.bot_token is None) != (self.eot_token is None):
            raise UserError("bot_token and eot_token go together: give both or neither")
        for prefix in self.drop_prefixes:
            if any(own.startswith(prefix) or prefix.startswith(own) for own in OWN_PREFIXES):
                raise UserError(
                    f"drop_prefixes holds {prefix!r}, which is part of the model itself; it may "
                    f"name anything but {' and '.join(OWN_PREFIXES)}"
                )

    @staticmethod
    def read_values(path: Path) -> dict[str, Any]:
        """The JSON object in `path`, for `from_mapping`."""
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path}: not JSON ({error}); expected an object") from error
        if not isinstance(values, dict):
            raise UserError(f"{path}: holds {type(values).__name__}; expected a JSON object")
        return values

    @classmethod
    def from_mapping(cls, values: dict[str, Any], where: str) -> Self:
        """Builds the record from JSON values; `where` names their origin in errors."""
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise UserError(f"{where}: unknown field {unknown[0]!r}; known fields: {sorted(known)}")
        for name, value in values.items():
            kinds, needed = _KINDS[name]
            optional = name not in _REQUIRED and known[name].default is None
            fits = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
            if isinstance(value, list | tuple):
                fits = fits and all(isinstance(item, str) for item in value)
            if not (fits or (value is None and optional)):
                raise UserError(f"{where}: field {name!r} is {value!r}; it must be {needed}")
        missing = [name for name in _REQUIRED if name not in values]
        if missing:
            arguments = ", ".join(f"{name.removeprefix('lora_')}=…" for name in missing)
            raise UserError(
                f"{where}: no value for {', '.join(missing)}, which the tensors cannot tell; write "
                f"{CONFIG_NAME} beside the weights or pass {arguments}"
            )
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def write(self, folder: Path) -> None:
        """Writes `codi_config.json` into `folder`, leaving out what is None."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        (folder / CONFIG_NAME).write_text(json.dumps(values, indent=2) + "\n")


_REQUIRED = ("lora_alpha", "num_latents", "remove_eos", "answer_stem")
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "lora_alpha": ((int, float), "a number"),
    "num_latents": ((int,), "a whole number"),
    "remove_eos": ((bool,), "true or false"),
    "answer_stem": ((str,), "a text"),
    "bot_token": ((str,), "a text"),
    "eot_token": ((str,), "a text"),
    "base_model": ((str,), "a text"),
    "drop_prefixes": ((list, tuple), "a list of texts"),
    "has_projection": ((bool,), "true or false"),
    "lora_rank": ((int,), "a whole number"),
    "lora_targets": ((list, tuple), "a list of module names"),
    "projection_dim": ((int,), "a whole number"),
    "projection_layer_norm": ((bool,), "true or false"),
}
