"""What a checkpoint's tensors cannot say: `codi_config.json` and its Python twin.

The LoRA rank, its target modules, the projection's width and its layer norm are read from the tensors. The
LoRA scale's numerator, the number of latent thoughts and the tokens around them are not, and a
wrong guess would silently load another model. So they come from this record. A field that matters has no
default, but for what a family of checkpoints has in common: there, None stands for what its layout says.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from codi_lens.checkpoint.fields import (
    Kind,
    check_fields,
    count,
    flag,
    known_fields,
    optional,
    positive,
    size,
    text,
    texts,
)
from codi_lens.errors import UserError
from codi_lens.files import write_json

CONFIG_NAME = "codi_config.json"


SPECIAL = ("pad", "bot", "eot", "eos", "latent")
"""What a token is called that is no text: a row of the embedding, or the tokenizer's eos."""


@dataclass(frozen=True, kw_only=True)
class CodiConfig:
    """Everything about a latent-reasoning model beside its tensors and its base model's config.

    Where `begin`, `end`, `question_suffix`, `extra_tokens` and `forbid_eot` are None, the layout of the checkpoint
    says what they are (`Layout.complete`). The last four fields are expectations: where given, the tensors
    must agree with them.
    """

    lora_alpha: float | None = None
    """LoRA's alpha; every adapter is scaled by alpha / rank. None: there are no adapters."""
    num_latents: int
    """Number N of latent thoughts that the model was trained with; 0 for a plain language model."""
    remove_eos: bool | None = None
    """Whether CODI was trained without eos in front of bot: True `[question][bot] …`, False
    `[question][eos][bot] …`. None: `begin` and `end` are given, or the layout has no such switch."""
    answer_stem: str
    """Text in front of the answer, e.g. "The answer is: "; may be empty."""
    bot_token: str | None = None
    """The tokenizer's own token that begins the thoughts; None: a row behind the base vocabulary."""
    eot_token: str | None = None
    """The tokenizer's own token that ends the thoughts; None: a row behind the base vocabulary."""
    begin: tuple[str, ...] | None = None
    """Tokens between question and thoughts: each one of `SPECIAL`, or a token of the tokenizer's. If
    there are none, the question's last token stands where bot would."""
    end: tuple[str, ...] | None = None
    """Tokens between thoughts and answer, named as in `begin`. If there are none, the answer begins at
    the last thought."""
    bos: bool | None = None
    """Whether the tokenizer's BOS stands in front. None: where the tokenizer puts it, and where it has one
    that is not its eos too: files of LLaMA's tokenizers may lack the rule, GPT-2's has none."""
    question_suffix: str | None = None
    """Text behind every question, read together with it."""
    extra_tokens: tuple[str, ...] | None = None
    """The rows of the embedding behind the base vocabulary, in order, named as in `SPECIAL`."""
    forbid_eot: bool | None = None
    """Whether greedy decoding leaves eot out, as CODI's own code does."""
    judge: str | None = None
    """How answers are judged (`codi_lens.data.judges`); None: by what the right answer is."""
    base_model: str | None = None
    """Hub id of the base model's config and tokenizer, where they are not beside the weights."""
    weights: str | None = None
    """Name of the file of the weights, where it is none of the usual ones."""
    drop_prefixes: tuple[str, ...] = ()
    """Prefixes of keys that inference has no use for, dropped and counted."""
    has_projection: bool | None = None
    """False: the final state is fed back as it is. True: a file without a projection is refused. None: as
    the layout has it."""
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
        if unknown := sorted(set(self.extra_tokens or ()) - set(SPECIAL)):
            raise UserError(f"extra_tokens holds {unknown[0]!r}; it may hold {', '.join(SPECIAL)}")

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], where: str, required: Iterable[str] = ()
    ) -> Self:
        """Builds the record from JSON values; `where` names their origin in errors."""
        checked = known_fields(values, FIELDS, where)
        require(checked, required or REQUIRED, where)
        try:
            return cls(**checked)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error

    def write(self, folder: Path) -> None:
        """Writes `codi_config.json` into `folder`, leaving out what is None."""
        values = {k: v for k, v in asdict(self).items() if v is not None}
        write_json({folder / CONFIG_NAME: values})


def require(values: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raises UserError for settings that nothing says; `where` names the place that was asked last."""
    missing = [name for name in names if values.get(name) is None]
    if missing:
        arguments = ", ".join(f"{name.removeprefix('lora_')}=…" for name in missing)
        raise UserError(
            f"{where}: no value for {', '.join(missing)}, which the tensors cannot tell; write "
            f"{CONFIG_NAME} beside the weights or pass {arguments}"
        )


REQUIRED = ("num_latents", "answer_stem")
FIELDS: dict[str, Kind] = {
    "lora_alpha": optional(positive),
    "num_latents": count,
    "remove_eos": optional(flag),
    "answer_stem": text,
    "bot_token": optional(text),
    "eot_token": optional(text),
    "begin": optional(texts),
    "end": optional(texts),
    "bos": optional(flag),
    "question_suffix": optional(text),
    "extra_tokens": optional(texts),
    "forbid_eot": optional(flag),
    "judge": optional(text),
    "base_model": optional(text),
    "weights": optional(text),
    "drop_prefixes": texts,
    "has_projection": optional(flag),
    "lora_rank": optional(size),
    "lora_targets": optional(texts),
    "projection_dim": optional(size),
    "projection_layer_norm": optional(flag),
}
