"""Knockouts and the influence of thoughts against plain runs."""

import pytest
import torch

from codi_lens import (
    knock_out,
    measure_influence,
)
from tests.laws import plain
from tests.patching.test_routes import PAIRS


def test_knockouts_equal_plain_runs_with_blocked_scores(codi):
    sweep = knock_out(codi, PAIRS, window=1, direction="noise")
    latents = tuple(range(codi.config.num_latents))
    layers = range(codi.model.cfg.n_layers)
    cases = [
        ("all layers", "bot", "question", [("bot", ["prompt"], layers)]),
        ("all layers", 2, 0, [(2, [0], layers)]),
        ("layer 1", 1, "question+bot", [(1, ["prompt", "bot"], [1])]),
        ("all layers", "answer", "latents", [("answer", latents, layers)]),
        ("layer 0", "eot", "bot", [("eot", ["bot"], [0])]),
        ("all layers", "eot+answer", 1, [("eot", [1], layers), ("answer", [1], layers)]),
    ]
    for p, pair in enumerate(PAIRS):
        for effect, row, column, blocked in cases:
            expected = plain.metrics(codi, pair, "noise", blocked=blocked)
            plain.same(sweep, p, expected, effect=effect, row=row, column=column)


@pytest.mark.parametrize("answer_start", ["stem", "eot"])
def test_zeros_of_knockouts_are_those_that_move_nothing(grouped, answer_start):
    sweep = knock_out(grouped, PAIRS, window=1, answer_start=answer_start)
    moved, zeros = sweep.values("l2_difference").amax(0), sweep.zeros
    there = ~moved.isnan()
    assert (zeros & there).any()
    assert not (zeros & ~there).any()
    assert moved[zeros].max() < 1e-12
    assert moved[there & ~zeros].min() > 1e-9


def test_cells_of_knockouts_are_there_where_something_comes_before(grouped):
    sweep = knock_out(grouped, PAIRS)
    there = ~sweep.values("kl_divergence").isnan().all(0)[0]
    columns = sweep.axes["column"]
    assert there[0].tolist() == [column in ("question", "question+bot") for column in columns]
    assert there[-1].all()


def test_without_question_and_thoughts_the_answer_is_what_the_model_says_of_neither(grouped):
    """Two questions that differ everywhere are answered alike, once nothing of them is seen."""
    from codi_lens.model.knockouts import Knockout
    from codi_lens.patching.engine import feed_eot, run_batch
    from codi_lens.patching.schedule import Run

    questions = ["12 plus 30?", "5 plus 7?"]
    keys = ("prompt", "bot", 0, 1, 2)
    blind = tuple(Knockout((query,), keys, (0, 1, 2)) for query in ("eot", "answer"))
    tokens = grouped.tokens.stem()
    for knockouts, alike in ((blind, True), ((), False)):
        runs = [Run(i, knockouts=knockouts) for i in range(2)]
        done = run_batch(grouped, questions, runs, 3)
        final = feed_eot(grouped, done, [tokens] * len(done.state.mask)).final
        logits = grouped.loop.unembed(final[list(done.batch_index)])
        assert (float((logits[0] - logits[1]).abs().max()) < 1e-9) == alike


def test_influence_is_what_later_thoughts_become(codi):
    sweep = measure_influence(codi, PAIRS, intervention="zero")
    model, latents = codi.model, codi.config.num_latents
    for p, pair in enumerate(PAIRS):
        base = plain.unpatched(codi, pair.clean.question)
        edits = [("hook_embed", 0, None, torch.zeros_like(base.thoughts[0]))]
        ran = plain.run(codi, pair.clean.question, edits=edits)
        for j in range(1, latents):
            new, old = ran.thoughts[j], base.thoughts[j]
            lens = [
                model.unembed(final)[..., :].log_softmax(-1)
                for final in (ran.finals[j], base.finals[j])
            ]
            expected = {
                "thought_distance": 1 - torch.cosine_similarity(new, old, dim=0),
                "thought_change": (new - old).norm() / old.norm(),
                "thought_kl": (lens[0].exp() * (lens[0] - lens[1])).sum(),
            }
            plain.same(
                sweep,
                p,
                {k: float(v) for k, v in expected.items()},
                tuple(expected),
                row=0,
                column=j,
            )
        expected = plain.metrics(codi, pair, "noise", edits=edits)
        plain.same(sweep, p, expected, row=0, column="answer")
    assert sweep.values("thought_kl")[:, 0].isnan().triu(1).any()
