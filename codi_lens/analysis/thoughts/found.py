"""What is read of one question."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from codi_lens.analysis.attention import Attention
from codi_lens.data.answers import Answer
from codi_lens.model.hooks import Step
from codi_lens.patching.result import Sweep


@dataclass(frozen=True)
class Token:
    """A token that a read-out finds likely."""

    text: str
    share: float
    """Its probability."""
    control: float | None
    """Its probability in the same read-out on other questions, on average."""


@dataclass(frozen=True)
class Stop:
    """What is answered when the loop is cut after some thoughts."""

    text: str
    answer: Answer | None
    """In that text; None where there is none in it."""
    own: float | None
    """Its probability."""
    final: float
    """Probability of the answer that all thoughts lead to."""


@dataclass(frozen=True)
class Result:
    """A number that is known to be on the way, or the answer, in every read-out."""

    value: Answer
    share: Float[Tensor, "layer step"]
    """Probability of its first token, in either spelling (`lenses.logit.first_tokens`)."""
    rank: Int[Tensor, "layer step"]
    """1: most likely."""
    control: Float[Tensor, "layer step"] | None
    """Its probability in the same read-out on other questions, on average."""

    @property
    def readable(self) -> tuple[int, int] | None:
        """The first column, and the lowest layer there, in which it is the most likely token; None if nowhere."""
        found = (self.rank.T == 1).nonzero()
        return None if not len(found) else (int(found[0, 1]), int(found[0, 0]))


@dataclass(frozen=True)
class Reading:
    """What a lens reads at every layer and step."""

    said: tuple[tuple[tuple[Token, ...], ...], ...]
    """[layer][step] -> the most likely tokens."""
    results: tuple[Result, ...]


@dataclass(frozen=True)
class Thoughts:
    """A question as the model thinks about it; made by `read_thoughts`."""

    model: str
    question: str
    others: tuple[str, ...]
    """The questions of the controls."""
    expected: Answer | None
    """The right answer, where it is known."""
    answer: Answer
    """What the model says."""
    steps: tuple[Step, ...]
    """Columns: bot, the latents, and eot where there is one."""
    readings: Mapping[str, Reading]
    """By lens."""
    attention: Attention
    """From every step, with what stands at each position."""
    zero: Float[Tensor, " latent"]
    """Probability of the answer when a thought is set to zero."""
    resample: Float[Tensor, " latent"] | None
    """The same when it is another question's, on average."""
    stops: tuple[Stop, ...]
    """After 0, 1, … all thoughts."""
    recovery: Sweep | None
    """Of a pair: every layer, and the thought, patched at every latent."""
