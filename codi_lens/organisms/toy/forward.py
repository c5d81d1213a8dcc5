"""CODI's forward pass in a form that can be trained, and greedy evaluation on top of it.

Inference has one latent loop, in `codi_lens.model.loop`, built on TransformerLens. Training needs the same computation in
another form: gradients through plain `transformers`, a batch of unlike questions, a teacher and a
student that share the question. The sequences are

    student: [bos question bot] [z_0 .. z_{N-1}] [eot The answer is : ␣ n] -> … n eos
    teacher: [bos question]     [cot steps]          [The answer is : ␣ n] -> … n eos

A block in brackets is one forward pass on the key/value cache (the thoughts: one pass each). The teacher
continues the student's question block and hides its last column, bot. Questions are padded on the left and
written-out steps on the right; each pass states its positions and a full mask, so that a padded row
computes exactly what it would compute alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, cast

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicCache, DynamicLayer

from codi_lens.checkpoint.plain_cache import cached
from codi_lens.organisms.toy.family import FAMILIES, Family
from codi_lens.organisms.toy.tokenizer import cot_text

Feed: TypeAlias = Callable[[int, Float[Tensor, "batch d_model"]], Float[Tensor, "batch d_model"]]
"""From a latent's number and the final state before it to the thought that is fed."""


class Problem(Protocol):
    """What training needs to know of a problem."""

    @property
    def question(self) -> str: ...

    @property
    def answer(self) -> int: ...

    @property
    def cot(self) -> tuple[str, ...]:
        """The written-out steps; may be empty."""


@dataclass(frozen=True)
class Batch:
    """Token ids of some problems, one row each. Masks are true where there is a token and not padding."""

    question: Int[Tensor, "batch question"]
    """[padding, bos, question, bot]"""
    question_mask: Bool[Tensor, "batch question"]
    cot: Int[Tensor, "batch cot"]
    """Steps that the teacher writes out, padded on the right."""
    cot_mask: Bool[Tensor, "batch cot"]
    answer: Int[Tensor, "batch answer"]
    """[stem, number, eos]"""
    eot: int
    may_say_eot: bool
    """Whether greedy decoding may choose eot."""

    @property
    def length(self) -> Int[Tensor, "batch 1"]:
        """Number of tokens of [bos, question, bot]."""
        return self.question_mask.sum(1, keepdim=True)


def encode(
    problems: Sequence[Problem],
    tokenizer: PreTrainedTokenizerBase,
    family: Family = FAMILIES["toy"],
    *,
    drop_last_step: bool = True,
) -> Batch:
    """Tokenize problems. As in the official default, the teacher leaves its last step unwritten."""
    extra, layout = family.extra_ids(len(tokenizer)), family.layout
    pad = extra.get(
        "pad", len(tokenizer) + len(extra)
    )  # no token at all, where there is none: it is masked
    keep = slice(None, -1) if drop_last_step else slice(None)

    def ids(texts: list[str], special: bool) -> list[list[int]]:
        encoded: list[list[int]] = tokenizer(texts, add_special_tokens=special)["input_ids"]
        return encoded

    asked = [p.question + layout.question_suffix for p in problems]
    questions = [[*row, extra["bot"]] for row in ids(asked, True)]
    cots = ids([cot_text(p.cot[keep]) for p in problems], False)
    answers = ids([f"{family.answer_stem}{p.answer}" for p in problems], False)
    width, cot_width = max(map(len, questions)), max(map(len, cots))
    question = torch.tensor([[pad] * (width - len(row)) + row for row in questions])
    cot = torch.tensor([row + [pad] * (cot_width - len(row)) for row in cots], dtype=torch.long)
    answer = torch.tensor([[*row, tokenizer.eos_token_id] for row in answers])
    masks = question != pad, cot != pad
    none = extra["bot"]
    question, cot = question.masked_fill(~masks[0], none), cot.masked_fill(~masks[1], none)
    may_say_eot = not layout.forbids_eot
    return Batch(question, masks[0], cot, masks[1], answer, extra["eot"], may_say_eot)


@dataclass(frozen=True)
class Prefix:
    """Keys and values of what has been read so far, and which of them later tokens may attend to."""

    cache: DynamicCache
    visible: Bool[Tensor, "batch key"]
    state: Float[Tensor, "batch d_model"]
    """Final hidden state at the last position, after the final norm."""


def _extend(
    model: PreTrainedModel,
    inputs: Float[Tensor, "batch query d_model"],
    positions: Int[Tensor, "batch query"],
    cache: DynamicCache,
    visible: Bool[Tensor, "batch key"],
    own: Bool[Tensor, "batch query"],
    *,
    all_layers: bool = False,
) -> tuple[Tensor, ...]:
    """Feed a block after a prefix: each token sees the visible prefix and the block's own tokens up to itself.

    Returns the hidden states of the last layer (after the final norm), or of all layers. Extends `cache`.
    """
    n_query = inputs.shape[1]
    causal = torch.ones(n_query, n_query, dtype=torch.bool).tril()
    # A padding token sees itself: softmax needs a key.
    itself = torch.eye(n_query, dtype=torch.bool)
    block = (causal & rearrange(own, "batch key -> batch 1 key")) | itself
    prefix = repeat(visible, "batch key -> batch query key", query=n_query)
    mask = rearrange(torch.cat([prefix, block], dim=2), "batch query key -> batch 1 query key")
    # Of the inputs' own dtype: attention takes a mask of another one and answers wrongly.
    bias = torch.zeros(mask.shape, dtype=inputs.dtype)
    output = model.base_model(
        inputs_embeds=inputs,
        attention_mask=bias.masked_fill_(~mask, torch.finfo(inputs.dtype).min),
        position_ids=positions,
        output_hidden_states=all_layers,
        **cached(cache),
    )
    return output.hidden_states[1:] if all_layers else (output.last_hidden_state,)


def _branch(cache: DynamicCache) -> DynamicCache:
    """A cache that can be extended without touching the one that it continues."""
    layers = cast(list[DynamicLayer], cache.layers)
    return DynamicCache([(layer.keys, layer.values) for layer in layers])


def read_question(model: PreTrainedModel, batch: Batch) -> tuple[Prefix, Tensor]:
    """Feed [bos question bot]. Returns the prefix, and the final state at the question's last token."""
    cache = DynamicCache()
    (states,) = _feed_question(model, batch, cache)
    return Prefix(cache, batch.question_mask, states[:, -1]), states[:, -2]


def question_layers(
    model: PreTrainedModel, batch: Batch
) -> tuple[Float[Tensor, "batch question d_model"], ...]:
    """The states of every layer over [bos question bot]; those of the last are normed."""
    return _feed_question(model, batch, DynamicCache(), all_layers=True)


def _feed_question(
    model: PreTrainedModel, batch: Batch, cache: DynamicCache, *, all_layers: bool = False
) -> tuple[Tensor, ...]:
    inputs = model.get_input_embeddings()(batch.question)
    positions = (batch.question_mask.cumsum(1) - 1).clamp(min=0)
    nothing, own = batch.question_mask[:, :0], batch.question_mask
    return _extend(model, inputs, positions, cache, nothing, own, all_layers=all_layers)


def think(
    model: PreTrainedModel,
    feed: Feed,
    batch: Batch,
    prefix: Prefix,
    n_latents: int,
    after: Callable[[int, DynamicCache], None] | None = None,
) -> tuple[Prefix, list[Float[Tensor, "batch d_model"]]]:
    """Feed `n_latents` thoughts, as `feed` makes them; `after` is called with the cache that a latent leaves."""
    cache, visible, state = _branch(prefix.cache), prefix.visible, prefix.state
    thoughts: list[Tensor] = []
    one = torch.ones_like(visible[:, :1])
    for step in range(n_latents):
        thought = feed(step, state)
        (states,) = _extend(model, thought[:, None], batch.length + step, cache, visible, one)
        if after is not None:
            after(step, cache)
        thoughts.append(thought)
        visible, state = torch.cat([visible, one], dim=1), states[:, -1]
    return Prefix(cache, visible, state), thoughts


def own(projection: nn.Module) -> Feed:
    """Each thought is the projected state before it."""
    return lambda step, state: cast(Tensor, projection(state))


def lent(thoughts: Float[Tensor, "batch latent d_model"]) -> Feed:
    """The thoughts are given."""
    return lambda step, state: thoughts[:, step]


def student_states(
    model: PreTrainedModel,
    batch: Batch,
    prefix: Prefix,
    n_latents: int,
    *,
    all_layers: bool = False,
) -> tuple[Float[Tensor, "batch answer d_model"], ...]:
    """Feed [eot, answer without eos] after the thoughts; states at t predict `batch.answer[:, t]`."""
    eot = torch.full_like(batch.answer[:, :1], batch.eot)
    inputs = model.get_input_embeddings()(torch.cat([eot, batch.answer[:, :-1]], dim=1))
    positions = batch.length + n_latents + torch.arange(inputs.shape[1])
    own = torch.ones(inputs.shape[:2], dtype=torch.bool)
    return _extend(
        model, inputs, positions, _branch(prefix.cache), prefix.visible, own, all_layers=all_layers
    )


def teacher_states(
    model: PreTrainedModel, batch: Batch, prefix: Prefix, *, all_layers: bool = False
) -> tuple[Float[Tensor, "batch cot_answer d_model"], ...]:
    """Feed [cot, answer without eos] after the question, from which bot is hidden."""
    ids = torch.cat([batch.cot, batch.answer[:, :-1]], dim=1)
    own = torch.cat(
        [batch.cot_mask, torch.ones_like(batch.answer[:, :-1], dtype=torch.bool)], dim=1
    )
    positions = batch.length - 1 + (own.cumsum(1) - 1).clamp(min=0)
    visible = prefix.visible.clone()
    visible[:, -1] = False
    inputs = model.get_input_embeddings()(ids)
    return _extend(
        model, inputs, positions, _branch(prefix.cache), visible, own, all_layers=all_layers
    )


@torch.no_grad()
def thoughts_of(
    model: PreTrainedModel, projection: nn.Module, batch: Batch, n_latents: int
) -> Float[Tensor, "batch latent d_model"]:
    """The thoughts that the model has on each question."""
    prefix, _ = read_question(model, batch)
    return torch.stack(think(model, own(projection), batch, prefix, n_latents)[1], dim=1)


@torch.no_grad()
def greedy_answers(
    model: PreTrainedModel,
    projection: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    n_latents: int,
    fed: Float[Tensor, "batch latent d_model"] | None = None,
) -> list[int | None]:
    """The number that greedy decoding answers, or None where it writes anything but stem, number, eos.

    The stem is the same for all problems, so decoding needs two passes: one with the right answer
    forced, which tells whether the stem comes out and with which number, and one with that number
    forced, which tells whether eos follows.
    """
    prefix, _ = read_question(model, batch)
    prefix, _ = think(
        model, own(projection) if fed is None else lent(fed), batch, prefix, n_latents
    )

    def argmax(forced: Batch) -> Int[Tensor, "batch answer"]:
        logits = model.lm_head(student_states(model, forced, prefix, n_latents)[0])
        # CODI's eot is the last id, so that its official code leaves it out by its place.
        allowed = logits if batch.may_say_eot else logits[..., : batch.eot]
        return cast(Tensor, allowed.argmax(-1))

    first = argmax(batch)
    number = first[:, -2:-1]
    forced = torch.cat([batch.answer[:, :-2], number, batch.answer[:, -1:]], dim=1)
    second = argmax(replace(batch, answer=forced))
    whole = (second == forced).all(1)
    texts = tokenizer.convert_ids_to_tokens(number.flatten().clamp(max=len(tokenizer) - 1).tolist())
    return [
        int(text) if ok and text.strip(" ").isdigit() else None
        for ok, text in zip(whole.tolist(), texts, strict=True)
    ]
