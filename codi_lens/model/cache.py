"""`CodiCache`: TransformerLens' activation cache over a whole CODI sequence, right for unfolded norms.

TransformerLens folds the gain of every norm into the weights that follow it, and its cache relies on that: it only
divides by the norm's scale. A CODI model keeps its gains (the projection reads the state after the
final one), so here everything that goes through a norm is multiplied by its gain. Then the parts of the
residual stream sum to the logits, but for biases behind the stream: those of the final layer norm and of the
unembedding, where a model has them.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import ActivationCache, HookedTransformer
from transformer_lens.utilities.slice import Slice, SliceInput

from codi_lens.errors import UserError, one_of
from codi_lens.model.hooks import Step
from codi_lens.model.tokens import ids_for


class CodiCache(ActivationCache):
    """TransformerLens' cache over question + bot + thoughts + eot + answer, in one sequence.

    `positions[step]` is the slice of the position axis that belongs to a step: "prompt" (left padding
    included), "bot", each latent 0 .. N-1, "eot", "answer". "embed" at a latent is the thought that was fed.
    """

    def __init__(
        self,
        activations: dict[str, Tensor],
        model: HookedTransformer,
        positions: dict[Step, slice],
        mask: Int[Tensor, "*batch pos"],
        has_batch_dim: bool = True,
    ) -> None:
        super().__init__(activations, model, has_batch_dim)
        self.positions = positions
        self.mask = mask

    def __repr__(self) -> str:
        rows = len(self.mask) if self.has_batch_dim else "no"
        steps = ", ".join(map(str, self.positions))
        return f"CodiCache({len(self)} activations, {rows} batch rows, steps {steps})"

    def remove_batch_dim(self) -> "CodiCache":
        """Drops the batch dimension of a batch of one, of the mask too."""
        if self.has_batch_dim:
            super().remove_batch_dim()
            self.mask = self.mask[0]
        return self

    def apply_slice_to_batch_dim(self, batch_slice: Slice | SliceInput) -> "CodiCache":
        """The cache of some rows of the batch; of a single one, given as an int, without the dimension."""
        rows = super().apply_slice_to_batch_dim(batch_slice)
        chosen = batch_slice if isinstance(batch_slice, Slice) else Slice(batch_slice)
        mask = chosen.apply(self.mask, dim=0)
        return CodiCache(rows.cache_dict, self.model, self.positions, mask, rows.has_batch_dim)

    def to(self, device: str | torch.device) -> "CodiCache":
        """Moves the activations and the mask to a device."""
        super().to(device)
        self.mask = self.mask.to(device)
        return self

    # -- through a norm ----------------------------------------------------------------------------

    def apply_ln_to_stack(
        self,
        residual_stack: Float[Tensor, "component *batch_and_pos d_model"],
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Slice | SliceInput = None,
        batch_slice: Slice | SliceInput = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Float[Tensor, "component *chosen d_model"]:
        """Components as a norm of the model passes them on, with its gain; arguments as in TransformerLens.

        With the scale of the whole residual stream (the default) this is linear: components that sum to the
        norm's input come out summing to its output. `recompute_ln` at the last layer gives each
        component the scale of its own (the logit lens).
        """
        passed = super().apply_ln_to_stack(
            residual_stack, layer, mlp_input, pos_slice, batch_slice, has_batch_dim, recompute_ln
        )
        recomputed = recompute_ln and self._layer(layer) == self.model.cfg.n_layers
        return passed if recomputed else passed * self._gain(layer, mlp_input)

    def logit_attrs(
        self,
        residual_stack: Float[Tensor, "component *batch_and_pos d_model"],
        tokens: int | Sequence[Any] | Int[Tensor, "..."],
        incorrect_tokens: int | Sequence[Any] | Int[Tensor, "..."] | None = None,
        pos_slice: Slice | SliceInput = None,
        batch_slice: Slice | SliceInput = None,
        has_batch_dim: bool = True,
    ) -> Float[Tensor, "component *chosen"]:
        """What each component adds to the logit of `tokens` (minus that of `incorrect_tokens`).

        Args:
            residual_stack: as `decompose_resid` and its kin return it, before any norm.
            tokens: ids: one, or one per row [batch], or one per row and position [batch, pos].
            incorrect_tokens: of the same shape.
            pos_slice, batch_slice: those that the stack was made with.
            has_batch_dim: whether the stack has a batch dimension.

        Raises:
            UserError: tokens that are no ids, or not one per row or position of the stack.
        """
        rows = batch_slice if isinstance(batch_slice, Slice) else Slice(batch_slice)
        leading = (rows.apply(residual_stack, dim=1) if has_batch_dim else residual_stack).shape[
            1:-1
        ]
        ids_of = partial(ids_for, leading=leading, d_vocab=self.model.cfg.d_vocab)
        right = ids_of(tokens)
        wrong = None if incorrect_tokens is None else ids_of(incorrect_tokens)
        return super().logit_attrs(residual_stack, right, wrong, pos_slice, rows, has_batch_dim)

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: Literal["all", "mlp", "attn"] = "all",
        apply_ln: bool = False,
        pos_slice: Slice | SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """As in TransformerLens; the embeddings are never left out for want of a cached activation.

        Raises:
            UserError: `hook_embed` is not in the cache, or an unknown `mode`.
        """
        one_of(mode, ("all", "mlp", "attn"), "mode")
        if incl_embeds:
            self._check_embeddings()
        return super().decompose_resid(
            layer, mlp_input, mode, apply_ln, pos_slice, incl_embeds, return_labels
        )

    def compute_head_results(self) -> None:
        """Caches what each head adds to the residual stream, unless that has been done."""
        if "blocks.0.attn.hook_result" not in self.cache_dict:
            super().compute_head_results()  # type: ignore[no-untyped-call]

    def stack_head_results(
        self,
        layer: int = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Slice | SliceInput = None,
        apply_ln: bool = False,
    ) -> Any:
        """As in TransformerLens; in front of layer 0, the remainder is what is embedded."""
        if layer == 0 and incl_remainder:
            stack = self._embedded(pos_slice)
            stack = self.apply_ln_to_stack(stack, 0, False, pos_slice) if apply_ln else stack
            return (stack, ["remainder"]) if return_labels else stack
        return super().stack_head_results(layer, return_labels, incl_remainder, pos_slice, apply_ln)

    def _embedded(self, pos_slice: Slice | SliceInput) -> Float[Tensor, "1 *batch_and_pos d_model"]:
        """The residual stream in front of layer 0, as a stack of one."""
        chosen = pos_slice if isinstance(pos_slice, Slice) else Slice(pos_slice)
        return chosen.apply(self["resid_pre", 0], dim=-2)[None]

    def stack_neuron_results(
        self,
        layer: int,
        pos_slice: Slice | SliceInput = None,
        neuron_slice: Slice | SliceInput = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """As `stack_head_results`; a projection behind a norm goes through the norm's gain and scale."""
        if layer == 0 and incl_remainder:
            stack, names = self.stack_head_results(0, True, True, pos_slice, apply_ln)
            stack = stack if project_output_onto is None else stack @ project_output_onto
            return (stack, names) if return_labels else stack
        projection, behind_norm = project_output_onto, apply_ln and project_output_onto is not None
        if behind_norm:
            projection = self._through_gain(project_output_onto, layer, False)  # type: ignore[arg-type]
        stack, labels = super().stack_neuron_results(
            layer,
            pos_slice,
            neuron_slice,
            True,
            incl_remainder,
            apply_ln and not behind_norm,
            projection,
        )
        if behind_norm:
            stack = self._scaled(stack, layer, False, pos_slice)
        return (stack, labels) if return_labels else stack

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Slice | SliceInput = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """Heads, neurons (or MLPs), embeddings and biases, as in TransformerLens, in any dtype.

        Also correct where TransformerLens' own is not: with `project_output_onto` behind a norm, it ignores the norm's
        gain and, for neurons in front of an MLP, its scale.
        """
        self._check_embeddings()
        layer = self._layer(layer)
        onto = project_output_onto
        if apply_ln and onto is not None:
            onto = self._through_gain(onto, layer, mlp_input)
        sliced: dict[str, Any] = {"pos_slice": pos_slice, "return_labels": True}
        heads, labels = self.stack_head_results(layer + mlp_input, **sliced)
        rest, names = self.decompose_resid(0, **sliced)
        heads = heads.to(rest)
        parts = [heads if onto is None else heads @ onto]
        if layer and expand_neurons:
            # The one stack so large that it is projected before it is expanded.
            neurons, neuron_names = super().stack_neuron_results(
                layer, project_output_onto=onto, **sliced
            )
            parts.append(neurons)
            labels += neuron_names
        if layer and not expand_neurons:
            mlps, mlp_names = self.decompose_resid(layer, mode="mlp", incl_embeds=False, **sliced)
            rest, names = torch.cat([mlps, rest]), mlp_names + names
        bias = self.model.accumulated_bias(layer, mlp_input, include_mlp_biases=expand_neurons)
        rest = torch.cat([rest, bias.to(rest).expand_as(rest[:1])])
        parts.append(rest if onto is None else rest @ onto)
        stack = torch.cat(parts)
        if apply_ln and onto is None:
            stack = self.apply_ln_to_stack(stack, layer, mlp_input, pos_slice)
        elif apply_ln:
            stack = self._scaled(stack, layer, mlp_input, pos_slice)
        return (stack, [*labels, *names, "bias"]) if return_labels else stack

    def _through_gain(
        self, projection: Float[Tensor, "d_model *outputs"], layer: int | None, mlp_input: bool
    ) -> Float[Tensor, "d_model *outputs"]:
        """A projection of a norm's output as one of its input divided by its scale."""
        gain = self._gain(layer, mlp_input)
        gained = projection * (gain if projection.ndim == 1 else gain[:, None])
        # A layer norm takes the mean off first, which is linear too.
        return gained - gained.mean(0) if self.model.cfg.normalization_type == "LN" else gained

    def _scaled(
        self,
        stack: Float[Tensor, "component *batch_and_pos_and_outputs"],
        layer: int | None,
        mlp_input: bool,
        pos_slice: Slice | SliceInput,
    ) -> Float[Tensor, "component *batch_and_pos_and_outputs"]:
        """Projected components divided by the norm's scale."""
        chosen = pos_slice if isinstance(pos_slice, Slice) else Slice(pos_slice)
        scale = chosen.apply(self[f"{self._norm(layer, mlp_input)}.hook_scale"], dim=-2)
        return stack / (scale if stack.ndim > scale.ndim else scale.squeeze(-1))

    def _layer(self, layer: int | None) -> int:
        return self.model.cfg.n_layers if layer is None or layer == -1 else layer

    def _norm(self, layer: int | None, mlp_input: bool) -> str:
        """The norm in front of a layer's attention or MLP, or of the unembedding."""
        number = self._layer(layer)
        if number == self.model.cfg.n_layers:
            return "ln_final"
        return f"blocks.{number}.ln{2 if mlp_input else 1}"

    def _gain(self, layer: int | None, mlp_input: bool) -> Float[Tensor, " d_model"]:
        gain: Tensor = self.model.get_submodule(self._norm(layer, mlp_input)).w  # type: ignore[assignment]
        return gain

    def _check_embeddings(self) -> None:
        learned = self.model.cfg.positional_embedding_type == "standard"
        for name in ("hook_embed", *(["hook_pos_embed"] if learned else [])):
            if name not in self.cache_dict:
                raise UserError(
                    f"the cache lacks {name!r}, without which the parts do not sum to the residual "
                    "stream; run_with_cache with a names_filter that keeps it"
                )
