"""Position-wise patching the plain way: one run of the loop per cell, metrics spelled out anew."""

from functools import lru_cache

import torch

from codi_lens import Site
from codi_lens.data.answers import contrast
from codi_lens.model.hooks import capture, replace


@lru_cache(maxsize=1000)
def captured(codi, question, site, num_latents):
    """The activation [d_model] of an unpatched run at a site."""
    kept = []
    codi.run_with_hooks(question, 1, fwd_hooks=[(site, capture(kept))], num_latents=num_latents)
    return kept[0][0, -1]


def frozen(codi, question, num_latents):
    """Hooks that feed the unpatched run's thoughts at every latent step."""
    thoughts = unpatched_thoughts(codi, question, num_latents)
    return [(Site("hook_embed", step), replace(thoughts[step])) for step in range(num_latents)]


@lru_cache(maxsize=100)
def unpatched_thoughts(codi, question, num_latents):
    """The thoughts [latent, d_model] of an unpatched run."""
    return codi.run_with_hooks(question, 1, num_latents=num_latents).thoughts[0]


@lru_cache(maxsize=100)
def unpatched(codi, question, answer, number, num_latents):
    """As `forced`, without hooks: many cells share it."""
    return forced(codi, question, answer, number, [], num_latents)


def forced(codi, question, answer, number, hooks, num_latents):
    """Logits at the positions that predict `number`, and the top-1 tokens in front of them."""
    run = codi.run_with_hooks(question, answer, fwd_hooks=hooks, num_latents=num_latents)
    tokens = run.answer_tokens[0]
    logits = run.logits[0]
    start = len(tokens) - len(number) if tokens[-1] == number[-1] else len(tokens) + 1 - len(number)
    return logits[start : start + len(number)], logits[:start].argmax(-1).tolist()


def cell(codi, pair, hooks, *, direction="denoise", num_latents=None, min_gap=1.0):
    """All metrics of one patched run: `hooks` act on the base prompt."""
    latents = codi.config.num_latents if num_latents is None else num_latents
    answers = contrast(
        codi.tokens.tokenizer,
        codi.config.answer_stem,
        pair.clean.answer,
        pair.corrupted.answer,
        codi.ids.eos,
    )
    base_name, source_name = (
        ("corrupted", "clean") if direction == "denoise" else ("clean", "corrupted")
    )
    read = {}
    base, source = (getattr(pair, name).question for name in (base_name, source_name))
    for name in ("clean", "corrupted"):
        wanted = getattr(pair, name).answer, getattr(answers, name)
        read["patched", name] = forced(codi, base, *wanted, hooks, latents)
        read["base", name] = unpatched(codi, base, *wanted, latents)
        read["source", name] = unpatched(codi, source, *wanted, latents)
    return spelled_out(read, answers, base_name, source_name, direction, min_gap)


def spelled_out(read, answers, base_name, source_name, direction, min_gap):
    """The metrics, from their definitions, in loops."""

    def log_p(logits):
        return logits - torch.logsumexp(logits, -1, keepdim=True)

    def kl(p, q):
        per_position = [
            (lp.exp() * (lp - lq)).sum() for lp, lq in zip(log_p(p), log_p(q), strict=True)
        ]
        return sum(per_position) / len(per_position)

    def score(run, name):
        logits = read[run, name][0]
        number = getattr(answers, name)
        return sum(row[token] for row, token in zip(logits, number, strict=True)) / len(number)

    def difference(run):
        t = answers.first_difference
        row = read[run, "clean"][0][t]
        return row[answers.clean[t]] - row[answers.corrupted[t]]

    def says(run, side=source_name):
        logits, stem = read[run, side]
        said = [*stem, *logits.argmax(-1).tolist()]
        return said == [*answers.stem, *getattr(answers, side)]

    patched, base = read["patched", base_name][0], read["base", base_name][0]
    level = {run: score(run, "clean") - score(run, "corrupted") for run in ("patched", "base")}
    values = {
        "kl_divergence": kl(patched, base),
        "kl_to_source": kl(read["source", source_name][0], read["patched", source_name][0]),
        "l2_difference": (patched - base).pow(2).sum(-1).sqrt().mean(),
        "prediction_change_rate": (patched.argmax(-1) != base.argmax(-1)).double().mean(),
        "answer_logit_diff": level["patched"],
        "answer_logit_diff_change": level["patched"] - level["base"],
        "clean_answer_score": score("patched", "clean"),
        "corrupted_answer_score": score("patched", "corrupted"),
        "base_given": float(says("patched", base_name)),
        "flipped": float(says("patched") and not says("base")),
    }
    for name in ("clean", "corrupted"):
        rows = log_p(read["patched", name][0])
        values[f"logprob_{name}"] = sum(
            row[token] for row, token in zip(rows, getattr(answers, name), strict=True)
        )
    values["logit_diff"] = values["recovery"] = float("nan")
    if answers.first_difference is not None:
        ld = {run: difference(run) for run in ("patched", "base", "source")}
        values["logit_diff"] = ld["patched"]
        clean, corrupted = (
            (ld["source"], ld["base"]) if direction == "denoise" else (ld["base"], ld["source"])
        )
        if clean > 0 and corrupted < 0 and clean - corrupted >= min_gap:
            values["recovery"] = (ld["patched"] - ld["base"]) / (ld["source"] - ld["base"])
    return {name: float(value) for name, value in values.items()}
