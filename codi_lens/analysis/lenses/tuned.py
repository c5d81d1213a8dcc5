"""The tuned lens (Belrose et al., arXiv 2303.08112): a layer's output is mapped into the last layer's space, then read.

    lens_l(h) = unembed(ln_final(h + W_l h + b_l))

With W_l = 0 and b_l = 0 this is the logit lens. `training` says how they are learned.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from codi_lens.analysis.lenses.logit import read_out, residuals, steps_of
from codi_lens.checkpoint.fields import read_object
from codi_lens.checkpoint.tensor_files import TensorFile
from codi_lens.errors import UserError
from codi_lens.files import expand, write_json, write_tensors
from codi_lens.model.cache import CodiCache
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.model.hooks import Step

TENSORS, ABOUT = "tuned_lens.safetensors", "tuned_lens.json"


@dataclass(frozen=True, eq=False)
class HeldOut:
    """KL(final ‖ lens) in nats on questions that were not learned from: means over the positions of each step."""

    steps: tuple[Step, ...]
    logit: Float[Tensor, "layer step"]
    """Of the logit lens."""
    tuned: Float[Tensor, "layer step"]
    n: int
    """Questions."""


@dataclass(frozen=True, eq=False, repr=False)
class TunedLens:
    """Trained maps, for one model. A group is all steps, or one step each (`per_step`)."""

    weights: Float[Tensor, "group layer d_model d_model"]
    """W: what is added to a state is W h + b."""
    biases: Float[Tensor, "group layer d_model"]
    per_step: bool
    model: Mapping[str, Any]
    """Which model it was trained for; see `identity`."""
    held_out: HeldOut

    def __repr__(self) -> str:
        maps = "a map for each layer and step" if self.per_step else "a map for each layer"
        return f"TunedLens({self.model['name']!r}, {maps}, {self.weights.shape[1]} layers)"

    def logits(
        self,
        codi: HookedCodi,
        cache: CodiCache,
        *,
        row: int = 0,
        steps: Sequence[Step] | None = None,
    ) -> Float[Tensor, "layer step d_vocab"]:
        """As `logit_lens`, through the trained maps.

        Raises:
            UserError: another model than the lens was trained for, or a step that it has no map for.
        """
        _refuse_another(self.model, codi, "this lens")
        steps = tuple(steps or steps_of(cache))
        return self.read(codi, residuals(codi, cache, row=row, steps=steps), steps)

    @torch.no_grad()
    def read(
        self, codi: HookedCodi, states: Float[Tensor, "layer step d_model"], steps: Sequence[Step]
    ) -> Float[Tensor, "layer step d_vocab"]:
        """Logits of every layer's states, a column for each of `steps`."""
        columns = [self.mapped(states[:, i : i + 1], step) for i, step in enumerate(steps)]
        return read_out(codi, torch.cat(columns, dim=1))

    def mapped(
        self, states: Float[Tensor, "layer pos d_model"], step: Step
    ) -> Float[Tensor, "layer pos d_model"]:
        """Every layer's states at a step, in the last layer's space."""
        if self.per_step and step not in self.held_out.steps:
            known = ", ".join(map(str, self.held_out.steps))
            raise UserError(
                f"the tuned lens has no map for step {step!r}; it was trained at {known}"
            )
        group = self.held_out.steps.index(step) if self.per_step else 0
        return moved(states, self.weights[group], self.biases[group][:, None])

    def save(self, folder: str | Path) -> None:
        """Writes `tuned_lens.safetensors`, and `tuned_lens.json` with the model that it is for.

        Raises:
            UserError: the model came from memory, so that nothing tells it from others.
        """
        if not self.model["digest"]:
            raise UserError(
                "the lens is for a model from memory, which has no digest by which it could be told from "
                "others; write the model to a folder, load it from there and train the lens for it"
            )
        folder, kl = expand(folder), self.held_out
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / TENSORS, self._tensors(), {})
        about = {"model": dict(self.model), "per_step": self.per_step}
        write_json({folder / ABOUT: about | {"steps": list(kl.steps), "held_out_questions": kl.n}})

    def _tensors(self) -> dict[str, Tensor]:
        kl = self.held_out
        named = {"weights": self.weights, "biases": self.biases}
        return named | {"held_out.logit": kl.logit, "held_out.tuned": kl.tuned}

    @classmethod
    def load(cls, folder: str | Path, codi: HookedCodi) -> "TunedLens":
        """A lens that was saved.

        Raises:
            UserError: no lens there, a damaged one, or one for another model.
        """
        folder = expand(folder)
        for name in (TENSORS, ABOUT):
            if not (folder / name).is_file():
                raise UserError(
                    f"{folder} holds no {name}; give a folder that a tuned lens was saved in"
                )
        about = read_object(folder / ABOUT)
        _refuse_another(about.get("model"), codi, f"the lens in {folder}")
        file = TensorFile.open(folder / TENSORS)
        try:
            steps, questions = tuple(about["steps"]), about["held_out_questions"]
            kl = HeldOut(steps, file.get("held_out.logit"), file.get("held_out.tuned"), questions)
            weights, biases = (
                file.get(name).to(codi.device, copy=True) for name in ("weights", "biases")
            )
            lens = cls(weights, biases, bool(about["per_step"]), about["model"], kl)
        except (KeyError, TypeError) as error:
            raise UserError(
                f"{folder} is not a whole tuned lens: {error!r}; train it again"
            ) from error
        return _fitting(lens, codi, folder)


def _fitting(lens: TunedLens, codi: HookedCodi, folder: Path) -> TunedLens:
    """The lens, if its tensors have the shapes that its steps and the model ask for."""
    groups = len(lens.held_out.steps) if lens.per_step else 1
    bias = (groups, codi.cfg.n_layers, codi.cfg.d_model)
    table = (codi.cfg.n_layers, len(lens.held_out.steps))
    expected = {"weights": (*bias, bias[-1]), "biases": bias}
    expected |= {"held_out.logit": table, "held_out.tuned": table}
    for name, tensor in lens._tensors().items():
        if tuple(tensor.shape) != expected[name]:
            raise UserError(
                f"{folder / TENSORS}: {name!r} has shape {tuple(tensor.shape)}; expected {expected[name]}"
            )
    return lens


def identity(codi: HookedCodi) -> dict[str, Any]:
    """What tells a model from others: its name, the digest of its files, and the adapters' scale."""
    return {"name": codi.name, "digest": codi.digest, "lora_alpha": codi.config.lora_alpha}


def _refuse_another(stated: Any, codi: HookedCodi, what: str) -> None:
    """Refuses a lens of another model; a model may have another name, though."""
    own = identity(codi)
    given = stated if isinstance(stated, Mapping) else {}
    for key in ("digest", "lora_alpha"):
        if given.get(key) != own[key]:
            raise UserError(
                f"{what} was trained for the model {given.get('name')!r} with {key} {given.get(key)!r}; "
                f"this model, {own['name']!r}, has {own[key]!r}: train a lens for it"
            )


def moved(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """h + W h + b, in the precision of the map."""
    own = states.to(weight)
    return (own + own @ weight.mT + bias).to(states)
