"""The latent loop the plain way: TransformerLens' own pass over the whole sequence, again at every step.

No cache, no batch, no padding, none of the package's blocks or hook plans: what an intervention does is spelled out as
edits of single positions. Techniques are compared with it, one run per cell.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

from codi_lens.data.answers import contrast
from tests.laws.oracle import spelled_out


@dataclass
class Ran:
    """One run, and everything it computed, before any edit there."""

    logits: torch.Tensor
    """[pos, d_vocab], from the last end token on."""
    thoughts: list
    """Those it made: thought k is made at the step before k."""
    finals: list
    """The final states that they were made of."""
    kept: dict
    where: dict

    def at(self, name, step, part=None):
        """The activation at the last position of a step."""
        now, position = self.kept[name], self.where[step][-1]
        if name.endswith(("pattern", "scores")):
            value = now[0, :, position, : position + 1]
        else:
            value = now[0, position]
        return value if part is None else value[part]


def run(codi, question, tokens=(), edits=(), feed=None, blocked=(), num_latents=None):
    """One run of the model.

    edits: (hook point, step, part, new value); feed: step -> the thought that is fed there; blocked: (step, steps it
    cannot attend to, layers).
    """
    model, feed = codi.model, feed or {}
    latents = codi.config.num_latents if num_latents is None else num_latents
    prompt = codi.tokens.prompt(question)
    where = {"prompt": list(range(len(prompt) - 1)), "bot": [len(prompt) - 1]}
    sequence = model.embed(torch.tensor([prompt]))
    thoughts, finals = [], []

    def thought():
        finals.append(whole(codi, sequence, where, edits, blocked)[0][0, -1])
        thoughts.append(codi.projection(finals[-1]) if codi.projection is not None else finals[-1])
        return thoughts[-1]

    for step in range(latents):
        fed = feed.get(step, thought())
        for name, at, _, value in edits:
            fed = value if name == "hook_embed" and at == step else fed
        where[step] = [sequence.shape[1]]
        sequence = torch.cat([sequence, fed[None, None]], 1)
    end = codi.tokens.end()
    start = sequence.shape[1]
    where["eot"] = list(range(start, start + len(end)))
    where["answer"] = list(range(start + len(end), start + len(end) + len(tokens)))
    sequence = torch.cat([sequence, model.embed(torch.tensor([[*end, *tokens]]))], 1)
    final, kept = whole(codi, sequence, where, edits, blocked)
    return Ran(model.unembed(final)[0, where["eot"][-1] :], thoughts, finals, kept, where)


def whole(codi, sequence, where, edits, blocked):
    """Final states of a sequence of embeddings, and all activations."""
    model, kept = codi.model, {}
    length = sequence.shape[1]

    def keep(activation, hook):
        kept[hook.name] = activation.clone()

    def edit(name, position, part, value):
        def change(activation, hook):
            out = activation.clone()
            here = (
                out[0, :, position, : position + 1]
                if name.endswith("pattern")
                else out[0, position]
            )
            here[... if part is None else part] = value
            return out

        return name, change

    def hide(layer, queries, keys):
        def change(scores, hook):
            out = scores.clone()
            for query in queries:
                out[:, :, query, [key for key in keys if key < query]] = -torch.inf
            return out

        return f"blocks.{layer}.attn.hook_attn_scores", change

    hooks = [(lambda name: name != "hook_embed", keep)]
    for name, step, part, value in edits:
        positions = where.get(step, [])
        if positions and name != "hook_embed":
            hooks.append(edit(name, positions[-1], part, value))
    for query, keys, layers in blocked:
        at = [key for step in keys for key in where.get(step, [])]
        hooks += [hide(layer, where.get(query, []), at) for layer in layers]
    if model.cfg.positional_embedding_type == "standard":
        sequence = sequence + model.pos_embed.W_pos[:length]
    with model.hooks(fwd_hooks=hooks):
        residual = model(sequence, start_at_layer=0, stop_at_layer=model.cfg.n_layers)
        return model.ln_final(residual), kept


def held(codi, base, steps):
    """Every head and MLP at some steps, as the base run has them."""
    return [
        (f"blocks.{layer}.{hook}", step, None, base.at(f"blocks.{layer}.{hook}", step))
        for step in steps
        for layer in range(codi.model.cfg.n_layers)
        for hook in ("attn.hook_z", "hook_mlp_out")
    ]


def sides(pair, direction):
    """The base's question, and the source's."""
    questions = (pair.corrupted.question, pair.clean.question)
    return questions if direction == "denoise" else questions[::-1]


@lru_cache(maxsize=500)
def unpatched(codi, question, tokens=(), num_latents=None):
    """A run without edits: many cells share it."""
    return run(codi, question, tokens, num_latents=num_latents)


def metrics(codi, pair, direction="denoise", num_latents=None, **changes):
    """All metrics of one patched run of a pair."""
    answers = contrast(
        codi.tokens.tokenizer,
        codi.config.answer_stem,
        pair.clean.answer,
        pair.corrupted.answer,
        codi.ids.eos,
    )
    base, source = sides(pair, direction)
    names = ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")
    stem, read = len(answers.stem), {}
    for name in ("clean", "corrupted"):
        number = getattr(answers, name)
        tokens = (*answers.stem, *number[:-1])
        read_of = {
            "patched": run(codi, base, tokens, num_latents=num_latents, **changes).logits,
            "base": unpatched(codi, base, tokens, num_latents).logits,
            "source": unpatched(codi, source, tokens, num_latents).logits,
        }
        for who, logits in read_of.items():
            read[who, name] = logits[stem : stem + len(number)], logits[:stem].argmax(-1).tolist()
    return spelled_out(read, answers, *names, direction, 1.0)


def same(
    sweep,
    pair,
    expected,
    names=("kl_divergence", "logit_diff", "answer_logit_diff", "flipped"),
    **where,
):
    """Whether a cell of a sweep has these metrics, up to 1e-9."""
    wrong = {}
    for name in names:
        found = float(sweep.values(name, **where)[pair])
        if not (
            abs(found - expected[name]) <= 1e-9
            or (found != found and expected[name] != expected[name])
        ):
            wrong[name] = (found, expected[name])
    assert not wrong, (where, wrong)
