"""Interchanges in plain transformers: nothing of this package but the folder's files is used."""

import json

import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu, layer_norm
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import DynamicCache


class Plain:
    """An organism from its files."""

    def __init__(self, folder):
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        config = json.loads((folder / "config.json").read_text())
        self.n_latents = json.loads((folder / "codi_config.json").read_text())["num_latents"]
        self.truth = json.loads((folder / "truth.json").read_text())
        vocab = len(self.tokenizer)
        self.bot, self.eot = vocab + 1, vocab + 2
        self.model = LlamaForCausalLM(LlamaConfig(**(config | {"vocab_size": vocab + 3})))
        tensors = load_file(folder / "model.safetensors")
        self.prj = {k.removeprefix("prj."): v.float() for k, v in tensors.items() if "prj." in k}
        weights = {k.removeprefix("codi."): v for k, v in tensors.items() if "prj." not in k}
        missing = self.model.load_state_dict(weights, strict=False).missing_keys
        assert set(missing) <= {"lm_head.weight"}
        self.model.tie_weights()

    def project(self, state):
        first, second, norm = ("1.", "3.", "ln.")
        hidden = gelu(state @ self.prj[first + "weight"].T + self.prj[first + "bias"])
        out = hidden @ self.prj[second + "weight"].T + self.prj[second + "bias"]
        return layer_norm(out, out.shape[-1:], self.prj[norm + "weight"], self.prj[norm + "bias"])

    @torch.no_grad()
    def think(self, questions, lent=None, rule=None):
        """The state behind the thoughts: (cache, thoughts). `lent`, `rule`: what is exchanged, from what is kept."""
        ids = self.tokenizer(questions)["input_ids"]
        ids = torch.tensor([[*row, self.bot] for row in ids])
        cache = DynamicCache()
        state = self._feed(self.model.get_input_embeddings()(ids), cache)
        thoughts = []
        for k in range(self.n_latents):
            z = self.project(state)
            if rule is not None:
                z = self._exchanged(z, k, lent, rule)
            thoughts.append(z)
            state = self._feed(z[:, None], cache)
            if rule is not None and ["kv", k] in rule["exchanged"]:
                for own, other in zip(cache.layers, lent[0].layers, strict=True):
                    at = ids.shape[1] + k
                    own.keys[:, :, at] = other.keys[:, :, at].roll(-1, 0)
                    own.values[:, :, at] = other.values[:, :, at].roll(-1, 0)
        return cache, thoughts

    def _exchanged(self, z, k, lent, rule):
        kept = lent[1][k]
        if k in rule["held"]:
            return kept
        for part, at in rule["exchanged"]:
            if at == k and part == "thought":
                return kept.roll(-1, 0)
            if at == k and part.startswith("half"):
                bases = list(self.truth["subspaces"][str(k)].values())
                basis = torch.tensor(bases[int(part[-1])])
                z = z + (kept.roll(-1, 0) - z) @ basis @ basis.T
        return z

    @torch.no_grad()
    def answers(self, cache):
        """Greedy answers, as text."""
        batch = cache.layers[0].keys.shape[0]
        token, said = torch.full((batch,), self.eot), []
        for _ in range(5):
            state = self._feed(self.model.get_input_embeddings()(token)[:, None], cache)
            token = self.model.lm_head(state)[:, : self.eot].argmax(-1)
            said.append(token)
        eos = self.tokenizer.eos_token_id
        rows = [
            row[: row.index(eos)] if eos in row else row for row in torch.stack(said, 1).tolist()
        ]
        return [self.tokenizer.decode(row) for row in rows]

    def _feed(self, inputs, cache):
        out = self.model.model(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
        return out.last_hidden_state[:, -1]
