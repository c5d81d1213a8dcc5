"""The families' loop in plain transformers: the whole sequence again at every step, no cache, no hooks, no mask.

It reads a twin's files by itself and merges adapters by hand, all in float64.
"""

from functools import partial

import torch
from transformers import AutoModelForCausalLM

from tests.families.files import ALPHA, Tensors, Twin
from tests.models.tiny import exact_rms_norm, exact_rotary


class Oracle:
    """A twin's model, batch 1."""

    def __init__(self, twin: Twin) -> None:
        self.twin = twin
        tensors: Tensors = {}
        for found in twin.tensors():
            tensors |= {key.removeprefix(twin.wrapper): t.double() for key, t in found.items()}
        self.projection = self._projection(tensors)
        self.model = AutoModelForCausalLM.from_config(twin.config, dtype=torch.float64)
        weights = {name: self._weight(tensors, name) for name in self.model.state_dict()}
        self.model.load_state_dict(weights, strict=True)
        self.model.eval()
        for module in self.model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                module.forward = partial(exact_rms_norm, module)
            if type(module).__name__.endswith("RotaryEmbedding"):
                heads = twin.config.num_attention_heads
                module.config.head_dim = (
                    getattr(module.config, "head_dim", None) or twin.config.hidden_size // heads
                )
                module.forward = partial(exact_rotary, module)
        self.layers = (
            self.model.transformer.h
            if "gpt2" in twin.config.model_type
            else self.model.model.layers
        )

    def _weight(self, tensors: Tensors, name: str) -> torch.Tensor:
        twin, (module, _, leaf) = self.twin, name.rpartition(".")
        names = [
            f"{twin.adapters or ''}{name}",  # a grown embedding beside an adapter goes before the base's
            f"{twin.base}{name}",
            f"{twin.base}{module}.base_layer.{leaf}",
            name.removeprefix("transformer."),
        ]
        stored = next((tensors[key] for key in names if key in tensors), None)
        if stored is None and name == "lm_head.weight" and twin.config.tie_word_embeddings:
            gpt2 = twin.config.model_type == "gpt2"
            return self._weight(
                tensors, "transformer.wte.weight" if gpt2 else "model.embed_tokens.weight"
            )
        assert stored is not None, name
        stem, label = (twin.base, ".default") if twin.adapters is None else (twin.adapters, "")
        a = tensors.get(f"{stem}{module}.lora_A{label}.weight")
        if leaf != "weight" or a is None:
            return stored
        b = tensors[f"{stem}{module}.lora_B{label}.weight"]
        delta = ALPHA / len(a) * b @ a
        return stored + (delta.T if twin.config.model_type == "gpt2" else delta)

    def _projection(self, tensors: Tensors) -> Tensors | None:
        if self.twin.projection is None:
            return None
        names = ("1.weight", "1.bias", "3.weight", "3.bias", "ln.weight", "ln.bias")
        keys = {n: self.twin.projection + n.replace("ln", self.twin.layer_norm) for n in names}
        return {name: tensors[key] for name, key in keys.items() if key in tensors}

    def project(self, h: torch.Tensor) -> torch.Tensor:
        p = self.projection
        if p is None:
            return h
        z = torch.nn.functional.gelu(h @ p["1.weight"].T + p["1.bias"])
        z = z @ p["3.weight"].T + p["3.bias"]
        if "ln.weight" not in p:
            return z
        centred = z - z.mean(-1, keepdim=True)
        scale = (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / scale * p["ln.weight"] + p["ln.bias"]

    def prompt(self, question: str) -> list[int]:
        words = self.twin.tokenizer(question + self.twin.suffix, add_special_tokens=False)
        return [*self.twin.bos, *words["input_ids"], *self.twin.begin]

    def answer(self, answer: int) -> list[int]:
        return self.twin.tokenizer(f"{self.twin.stem}{answer}", add_special_tokens=False)[
            "input_ids"
        ]

    def embed(self, ids: list[int]) -> torch.Tensor:
        return self.model.get_input_embeddings()(torch.tensor([ids], dtype=torch.long))

    @torch.no_grad()
    def run(self, question: str, answer: list[int]) -> dict[str, torch.Tensor]:
        """Thoughts and final states [latents + 1, d_model], every layer's output [layer, pos, d_model], and
        the logits that predict each token of the answer and what follows it."""
        x = self.embed(self.prompt(question))
        thoughts, states = [], []
        for step in range(self.twin.num_latents + 1):
            h = self.model.base_model(inputs_embeds=x, use_cache=False).last_hidden_state[:, -1:]
            states.append(h)
            thoughts.append(self.project(h))
            if step < self.twin.num_latents:
                x = torch.cat([x, thoughts[-1]], dim=1)
        x = torch.cat([x, self.embed([*self.twin.end, *answer])], dim=1)
        outputs = []
        watched = [
            layer.register_forward_hook(
                lambda _m, _i, out: outputs.append(out[0] if isinstance(out, tuple) else out)
            )
            for layer in self.layers
        ]
        logits = self.model(inputs_embeds=x, use_cache=False).logits[0]
        for handle in watched:
            handle.remove()
        return {
            "thoughts": torch.cat(thoughts, dim=1)[0],
            "final_states": torch.cat(states, dim=1)[0],
            "residual": torch.cat(outputs),
            "all_logits": logits,
            "logits": logits[-1 - len(answer) :],
        }

    def greedy(self, question: str, most: int) -> list[int]:
        """Tokens of the greedy answer, up to eos."""
        said: list[int] = []
        while len(said) < most:
            logits = self.run(question, said)["logits"][-1]
            if self.twin.never is not None:
                logits[self.twin.never] = -torch.inf
            token = int(logits.argmax())
            if token == self.twin.tokenizer.eos_token_id:
                break
            said.append(token)
        return said
