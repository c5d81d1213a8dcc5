"""What does each thought attend to? Attention by head and group of tokens, and to the tokens of one question.

Takes the mean over questions of what each head gives, at each step, to the numbers and words of the question, to bot, to every
earlier thought, and to the answer's stem. Writes `attention.json`, with the tokens of the first question too, and the
figures `attention.html`.
"""

import argparse
from typing import TYPE_CHECKING, Any

from codi_lens.cli import flags
from codi_lens.cli.asking import chosen_pairs
from codi_lens.cli.folders import check_unused, fresh_folder
from codi_lens.cli.model_flags import add_model_flags, load_model
from codi_lens.cli.program import Program

if TYPE_CHECKING:
    from codi_lens.analysis.attention import Attention, MeanAttention

TOP = 3


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    flags.add_experiment_flags(parser)
    flags.add_side(parser)
    add_model_flags(parser)


def measure(arguments: argparse.Namespace) -> None:
    """Looks, prints and writes."""
    check_unused(arguments.out)
    from codi_lens import attention_of, mean_attention, plots
    from codi_lens.data.pairs import side_of
    from codi_lens.files import write_json, write_text

    pairs = chosen_pairs(arguments)
    questions = [side_of(pair, arguments.side) for pair in pairs]
    codi, first, count = load_model(arguments), questions[0], arguments.num_latents
    mean = mean_attention(codi, questions, num_latents=count)
    _, cache = codi.run_with_cache(first.question, first.answer, num_latents=count)
    one = attention_of(codi, cache, first.question, first.answer)
    folder = fresh_folder(arguments.out, "attention")
    paths = folder / "attention.json", folder / "attention.html"
    record = {"config": flags.as_json(arguments), "model_digest": codi.digest}
    about = {"question": first.question} | tokens_entry(one)
    write_json({paths[0]: record | entry(mean) | {"first_question": about}})
    figures = {"attention": plots.attention(mean), "tokens": plots.attention_to_tokens(one)}
    write_text(paths[1], plots.page(figures))
    print(table(mean, one))
    print("\nwritten:", *(f"  {path}" for path in paths), sep="\n")


def entry(mean: "MeanAttention") -> dict[str, Any]:
    """Means over questions, [layer][head][step][group]."""
    steps, groups = list(map(str, mean.steps)), list(mean.groups)
    return {"n": mean.n, "steps": steps, "groups": groups, "mean": mean.weights.tolist()}


def tokens_entry(one: "Attention") -> dict[str, Any]:
    """One question's tokens, what each layer gives to them, and those that get most."""
    layers = range(len(one.weights))
    return {
        "labels": list(one.positions.labels),
        "token_groups": list(one.positions.groups),
        "by_layer": [one.of(layer).tolist() for layer in layers],
        "most_attended": {
            str(step): [vars(token) for token in tokens]
            for step, tokens in one.most_attended(leave_out=["frame"]).items()
        },
    }


def table(mean: "MeanAttention", one: "Attention") -> str:
    """The most attended groups of every step, the head that looks most at a thought, and the most attended tokens."""
    from codi_lens.analysis.positions import group_of

    lines = [
        f"{mean.n} questions; share of attention, mean over layers and heads; one head's largest share of bot or an "
        "earlier thought; and the tokens that get most in the first question, BOS left out",
        "",
        f"  {'from':<8}{'groups':<44}{'one head':<18}tokens",
    ]
    most = one.most_attended(count=TOP, leave_out=["frame"])
    for i, (step, row) in enumerate(zip(mean.steps, mean.of().tolist(), strict=True)):
        best = sorted(zip(mean.groups, row, strict=True), key=lambda item: -item[1])[:TOP]
        groups = ", ".join(f"{name} {share:.2f}" for name, share in best)
        tokens = ", ".join(f"{token.label!r} {token.weight:.2f}" for token in most[step])
        lines.append(f"  {group_of(step):<8}{groups:<44}{_one_head(mean, i):<18}{tokens}")
    return "\n".join(lines)


def _one_head(mean: "MeanAttention", step: int) -> str:
    """The largest share of bot or an earlier thought that any head gives, and which head."""
    from codi_lens.analysis.positions import group_of

    earlier = {"bot", *(group_of(other) for other in mean.steps if isinstance(other, int))}
    earlier -= {group_of(mean.steps[step])}
    among = [i for i, name in enumerate(mean.groups) if name in earlier]
    shares = mean.weights[:, :, step, among]
    # From bot, without thoughts, there is none.
    if not (largest := max(shares.flatten().tolist(), default=0.0)):
        return ""
    layer, head, group = (shares == largest).nonzero()[0].tolist()
    return f"{mean.groups[among[group]]} {largest:.2f} ({layer}.{head})"


main = Program("attention", __doc__, add_flags, measure)
