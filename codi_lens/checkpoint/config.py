"""What a CODI checkpoint's tensors cannot say: `codi_config.json` and its Python twin.

The LoRA rank, its target modules, the projection's width and its layer norm are read from the tensors. The
LoRA scale's numerator, the number of latent thoughts and the layout of the special tokens are not, and a
wrong guess would silently load another model. So they come from this record, and no field that matters has a
default.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from codi_lens.checkpoint.fields import (
    Kind,
    check_fields,
    count,
    flag,
    optional,
    positive,
    size,
    text,
    texts,
)
from codi_lens.errors import UserError
from codi_lens.files import write_json

CONFIG_NAME = "codi_config.json"


@dataclass(frozen=True)
class CodiConfig:
    """Everything about a CODI model beside its tensors and its base model's config.

    The last four fields are expectations: where given, the tensors must agree with them.
    """

    lora_alpha: float
    """LoRA's alpha; every adapter is scaled by alpha / rank."""
    num_latents: int
    """Number N of latent thoughts that the model was trained with."""
    remove_eos: bool
    """True: `[question][bot] … [eot][answer]`; False: `[question][eos][bot] … [eot][eos][answer]`."""
    answer_stem: str
    """Text between the end token and the answer, e.g. "The answer is: "; may be empty."""
    bot_token: str | None = None
    """The tokenizer's own token that begins the thoughts; None: id V + 1 (V: base vocabulary)."""
    eot_token: str | None = None
    """The tokenizer's own token that ends the thoughts; None: id V + 2."""
    base_model: str | None = None
    """Hub id of the base model's config and tokenizer, where they are not beside the weights."""
    drop_prefixes: tuple[str, ...] = ()
    """Prefixes of keys that inference has no use for (e.g. "decoder."), dropped and counted."""
    has_projection: bool = True
    """False: the final state is fed back as it is. True: a file without a projection is refused."""
    judge: str | None = None
    """How an answer is judged right, one of `data.judges.JUDGES`; None: numbers as such, others as text."""
    lora_rank: int | None = None
    lora_targets: tuple[str, ...] | None = None
    projection_dim: int | None = None
    projection_layer_norm: bool | None = None

    def __post_init__(self) -> None:
        for name, value in check_fields(vars(self), FIELDS).items():
            object.__setattr__(self, name, value)
        if (self.bot_token is None) != (self.eot_token is None):
            raise UserError("bot_token and eot_token go together: give both or neither")
        if self.bot_token is not None and self.bot_token == self.eot_token:
            raise UserError(
                f"bot_token and eot_token are both {self.bot_token!r}; they must be different tokens"
            )

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], where: str) -> Self:
        """Builds the record from JSON values; `where` names their origin in errors."""
        unknown = sorted(set(values) - set(FIELDS))
        if unknown:
            raise UserError(
                f"{where}: unknown field {unknown[0]!r}; known fields: {sorted(FIELDS)}"
            )
        missing = [name for name in REQUIRED if name not in values]
        if missing:
            arguments = ", ".join(f"{name.removeprefix('lora_')}=…" for name in missing)
            raise UserError(
                f"{where}: no value for {', '.join(missing)}, which the tensors cannot tell; write "
                f"{CONFIG_NAME} beside the weights or pass {arguments}"
            )
        try:
            return cls(**values)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def write(self, folder: Path) -> None:
        """Writes `codi_config.json` into `folder`, leaving out what is None."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        write_json({folder / CONFIG_NAME: values})


REQUIRED = ("lora_alpha", "num_latents", "remove_eos", "answer_stem")
FIELDS: dict[str, Kind] = {
    "lora_alpha": positive,
    "num_latents": count,
    "remove_eos": flag,
    "answer_stem": text,
    "bot_token": optional(text),
    "eot_token": optional(text),
    "base_model": optional(text),
    "drop_prefixes": texts,
    "has_projection": flag,
    "judge": optional(text),
    "lora_rank": optional(size),
    "lora_targets": optional(texts),
    "projection_dim": optional(size),
    "projection_layer_norm": optional(flag),
}
