"""The logit lens against the model's own states and logits."""

import pytest
import torch

from codi_lens import HookedCodi, Variant, plots
from codi_lens.analysis.lenses import (
    intermediate_ranks,
    logit_lens,
    steps_of,
    thought_lens,
    top_tokens,
)
from codi_lens.analysis.lenses.logit import first_tokens
from tests.models.tiny import tiny_config, write_tiny
from tests.plots.seeing import written

QUESTION, ANSWER = "12 plus 30?", 42


@pytest.fixture(scope="module", params=["projection", "none"])
def codi(request, tmp_path_factory):
    """Unlike the trained ones, its norms have gains far from 1, so that a lens without them fails."""
    options = {}
    if request.param == "none":
        options = {"projection_dim": None, "config": tiny_config(has_projection=False)}
    folder = write_tiny(tmp_path_factory.mktemp("lens"), **options)
    return HookedCodi.from_pretrained(folder, dtype=torch.float64)


@pytest.fixture(scope="module")
def cache(codi):
    return codi.run_with_cache(QUESTION, ANSWER)[1]


def test_the_last_layer_at_eot_and_behind_it_is_the_models_own_output(codi, cache):
    logits = codi.run_with_cache(QUESTION, ANSWER)[0]
    lens = logit_lens(codi, cache, steps=["eot", "answer"])
    assert lens.shape == (3, 2, logits.shape[-1])
    torch.testing.assert_close(lens[-1, 0], logits[0, cache.positions["eot"].stop - 1])
    torch.testing.assert_close(lens[-1, 1], logits[0, -1])


def test_a_layer_is_read_through_the_final_norm_with_its_gain(codi, cache):
    residual = cache["blocks.1.hook_resid_post"][0, cache.positions[1].start]
    scale = (residual.pow(2).mean() + codi.model.cfg.eps).sqrt()
    expected = residual / scale * codi.model.ln_final.w @ codi.model.W_U
    torch.testing.assert_close(logit_lens(codi, cache)[1, 2], expected)
    assert not torch.allclose(residual / scale @ codi.model.W_U, expected, atol=1e-2)


def test_thoughts_are_read_before_and_after_the_projection(codi, cache):
    run = codi.run_with_hooks(QUESTION, ANSWER)
    lens = thought_lens(codi, cache)
    torch.testing.assert_close(lens.before, run.final_states[0] @ codi.model.W_U)
    torch.testing.assert_close(lens.after, run.thoughts[0] @ codi.model.W_U)
    if codi.projection is None:
        assert torch.equal(lens.before, lens.after)


def test_a_row_of_a_left_padded_batch_is_read_like_the_question_alone(codi, cache):
    both = codi.run_with_cache(["one plus two plus 3 plus 4?", QUESTION], [1, ANSWER])[1]
    torch.testing.assert_close(logit_lens(codi, both, row=1), logit_lens(codi, cache))
    assert steps_of(both) == ("bot", 0, 1, 2, "eot")


def test_tokens_and_ranks_agree(codi, cache):
    lens = logit_lens(codi, cache)
    tokens = top_tokens(codi, lens, count=3)
    ranks = intermediate_ranks(codi, lens, Variant(QUESTION, 42, (12, 30), (12, 30)))
    assert list(ranks) == ["12", "30", "42"]
    for i, row in enumerate(tokens):
        for j, cell in enumerate(row):
            assert [share for _, share in cell] == sorted((s for _, s in cell), reverse=True)
            for name, table in ranks.items():
                assert (int(table[i, j]) == 1) == (cell[0][0] == name)
    assert all(1 <= int(t.min()) <= int(t.max()) <= lens.shape[-1] for t in ranks.values())


def test_a_table_of_tokens_shows_them_as_text(codi, cache):
    figure = plots.top_tokens(
        [[[("<b>", 0.5), (" 2", 0.25)]]], rows=[0], columns=["bot"], title="one"
    )
    assert written(figure, 0, 0) == "&lt;b&gt;"
    assert figure.data[0].customdata[0][0] == "&lt;b&gt;  0.500<br>␣2  0.250"
    lens = logit_lens(codi, cache)
    ranks = intermediate_ranks(codi, lens, Variant(QUESTION, 42))
    figure = plots.ranks(ranks, rows=range(3), columns=steps_of(cache))
    assert written(figure, 2, 0) == str(int(ranks["42"][2, 0]))


def test_a_result_is_read_in_both_spellings():
    toy, gpt2 = HookedCodi.from_pretrained("toy"), HookedCodi.from_pretrained("toy-gpt2")
    assert gpt2.tokenizer.batch_decode([[one] for one in first_tokens(gpt2, 18)]) == [" 18", "18"]
    assert toy.tokenizer.batch_decode([[one] for one in first_tokens(toy, 18)]) == ["18"]
