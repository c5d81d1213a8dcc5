"""What is in a checkpoint, and does its loop compute the right thing?

Loads the model and prints what became of each tensor. Then one question goes through this package's loop and,
on the same merged weights, through plain transformers with its own key/value cache; the largest differences
of thoughts and of answer logits are printed. Exit code 0; 1 if they differ by more than rounding; 2 for a
checkpoint or settings that cannot be used.
"""

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from codi_lens.cli.model_flags import add_model_flags, load_parts
from codi_lens.cli.program import Program

if TYPE_CHECKING:
    import torch

    from codi_lens import HookedCodi
    from codi_lens.model.pretrained import Pretrained

QUESTION = (
    "A team starts with 3 members. They recruit 5 new members. Then each current member recruits 2 "
    "additional people. How many people are there now?"
)
ANSWER_TOKENS = 16
"""At most, in the comparison."""
TOLERANCE = {"float64": 1e-5, "float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}
"""Largest difference that rounding explains, as a share of the largest value. transformers takes its
norms in float32 even where the model is in float64, and every thought feeds its error to the next."""


@dataclass(frozen=True)
class Comparison:
    """The same question through both implementations."""

    answer: str
    thoughts: "Difference"
    logits: "Difference"


@dataclass(frozen=True)
class Difference:
    """How far two tensors are apart."""

    largest: float
    scale: float
    """The largest absolute value in the reference."""

    @property
    def relative(self) -> float:
        return self.largest / self.scale if self.scale else self.largest

    def __str__(self) -> str:
        return f"{self.largest:.3g} (largest value {self.scale:.3g})"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    parser.add_argument("model", metavar="PATH", help="'toy', a folder, or a hub id")
    add_model_flags(parser)
    parser.add_argument("--question", default=QUESTION, help="asked in the comparison")


def inspect(arguments: argparse.Namespace) -> bool:
    """Prints report and comparison; whether both implementations agree."""
    # Heavy imports wait until the arguments are known to be right.
    from codi_lens import HookedCodi

    parts = load_parts(arguments, num_latents=arguments.num_latents)
    codi = HookedCodi.from_parts(parts, arguments.model)
    print(parts.report.text())
    comparison = compare(codi, parts, arguments.question)
    print(
        f"\nthe same question through this package and through plain transformers:\n  {arguments.question}"
    )
    print(f"answer                         {comparison.answer!r}")
    print(f"largest difference, thoughts   {comparison.thoughts}")
    print(f"largest difference, logits     {comparison.logits}")
    worst = max(comparison.thoughts.relative, comparison.logits.relative)
    agree = worst <= TOLERANCE[arguments.dtype]
    verdict = "agree" if agree else "DISAGREE"
    print(
        f"they {verdict}: {worst:.2g} of the largest value, "
        f"{TOLERANCE[arguments.dtype]:g} allowed for rounding in {arguments.dtype}"
    )
    return agree


def compare(codi: "HookedCodi", parts: "Pretrained", question: str) -> Comparison:
    """Thoughts and answer logits of both, along this package's greedy answer.

    Raises:
        UserError: the whole is longer than the model's context.
    """
    import torch

    prompt, end, latents = codi.tokens.prompt(question), codi.tokens.end(), codi.num_latents()
    codi.tokens.check_length(len(prompt) + latents + len(end) + ANSWER_TOKENS)
    state = codi.think([question], latents)
    (answer,) = codi.decode(state.copy(), max_new_tokens=ANSWER_TOKENS)
    spoken = torch.tensor([end + answer])
    logits = codi.loop.feed_tokens(state, spoken)[0]
    thoughts = torch.cat(state.thoughts)
    expected_thoughts, expected_logits = plain_run(parts, prompt, latents, spoken)
    return Comparison(
        codi.tokens.text(answer),
        difference(thoughts, expected_thoughts),
        difference(logits, expected_logits),
    )


def difference(found: "torch.Tensor", expected: "torch.Tensor") -> Difference:
    """The largest absolute difference, and the scale to see it on."""
    found, expected = found.double(), expected.double()
    return Difference(float((found - expected).abs().max()), float(expected.abs().max()))


def plain_run(
    parts: "Pretrained", prompt: list[int], num_latents: int, spoken: "torch.Tensor"
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """CODI on the unhooked model: batch 1, transformers' own cache and positions, no mask.

    Returns:
        Thoughts [num_latents + 1, d_model], and the logits [pos, vocab] after each `spoken` token.
    """
    import torch
    from transformers import DynamicCache

    from codi_lens.checkpoint.plain_cache import cached

    model = parts.model
    thoughts = []
    inputs = {"input_ids": torch.tensor([prompt], device=model.device)}
    cache = DynamicCache()
    with torch.no_grad():
        for _ in range(num_latents + 1):
            final = model.base_model(**inputs, **cached(cache)).last_hidden_state[:, -1:]
            thoughts.append(final if parts.projection is None else parts.projection(final))
            inputs = {"inputs_embeds": thoughts[-1]}
        logits = model(input_ids=spoken.to(model.device), **cached(cache)).logits[0]
    return torch.cat(thoughts, dim=1)[0], logits


main = Program("inspect_checkpoint", __doc__, add_flags, inspect)
