"""Every checkpoint that people have, as a small twin: loaded, it is what plain transformers makes of its file."""

import pytest
import torch

from codi_lens import HookedCodi, UserError
from tests.families.oracle import Oracle
from tests.families.twins import TWINS, twin

QUESTIONS = ["one plus two?", "one plus 12 plus two plus 7?"]
ANSWERS = [42, 7]


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_what_its_file_says(name, tmp_path):
    made = twin(name, tmp_path)
    oracle = Oracle(made)
    codi = HookedCodi.from_pretrained(made.source, dtype="float64", **made.options)
    report, keys = codi.load_report, sum(map(len, made.tensors()))
    counted = report.claimed + sum((*report.dropped.values(), *report.leftovers.values()))
    assert report.replaced == made.replaced
    assert counted + report.replaced == keys
    assert (report.dropped, report.leftovers) == (made.dropped, made.leftovers)
    assert (report.architecture, report.wrapper) == (made.config.model_type, made.wrapper)
    assert sum(report.merged.values()) == oracle.merged
    batch = codi.run_with_hooks(QUESTIONS, ANSWERS)
    said = codi.decode(codi.think(QUESTIONS, made.num_latents), 5)
    worst = {}

    def agree(what, found, expected):
        error = float((found - expected).abs().max())
        worst[what] = max(error, worst.get(what, 0.0))

    for row, (question, answer) in enumerate(zip(QUESTIONS, ANSWERS, strict=True)):
        ids = oracle.answer(answer)
        assert codi.tokens.prompt(question) == oracle.prompt(question)
        assert codi.tokens.answer(answer) == ids
        expected = oracle.run(question, ids)
        alone = codi.run_with_hooks(question, answer)
        for what in ("thoughts", "final_states", "logits"):
            agree(what, getattr(alone, what)[0], expected[what])
            agree(
                f"{what} padded", getattr(batch, what)[row][: len(expected[what])], expected[what]
            )
        logits, cache = codi.run_with_cache(question, answer)
        agree("all logits", logits[0], expected["all_logits"])
        for layer, residual in enumerate(expected["residual"]):
            agree(f"layer {layer}", cache["resid_post", layer][0], residual)
        greedy = oracle.greedy(question, 5)
        assert said[row] == codi.decode(codi.think([question], made.num_latents), 5)[0] == greedy
    assert max(worst.values()) < 1e-9


@pytest.mark.parametrize("name", ["gpt2-merged", "qwen3-adapter"])
def test_the_projection_may_lie_in_a_file_that_the_caller_names(name, tmp_path):
    made = twin(name, tmp_path)
    whole = HookedCodi.from_pretrained(made.source, **made.options)
    elsewhere = made.files[-1].rename(tmp_path / f"elsewhere{made.files[-1].suffix}")
    with pytest.raises(UserError, match=r"no projection was found|'prj\.1\.weight' is missing"):
        HookedCodi.from_pretrained(made.source, **made.options)
    named = HookedCodi.from_pretrained(made.source, projection=elsewhere, **made.options)
    one, other = (codi.run_with_hooks(QUESTIONS, ANSWERS).logits for codi in (whole, named))
    assert torch.equal(one, other)
