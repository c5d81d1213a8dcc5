"""The tuned lens against a computation spelled out in float64, and what it is bound to."""

import json

import pytest
import torch

from codi_lens import HookedCodi, UserError
from codi_lens.analysis.lenses import TunedLens, logit_lens, train_tuned_lens
from codi_lens.data.datasets import load_dataset
from tests.laws import plain
from tests.models.architectures import MODELS, load

QUESTIONS = ["12 plus 30?", "one plus two plus 3?", "5 plus 6?", "1 plus 2?", "4 plus one?"]
HELD_OUT = (QUESTIONS[0], QUESTIONS[4])


@pytest.fixture(scope="module", params=["llama, grouped", "gpt2"])
def codi(request, tmp_path_factory):
    return load(MODELS[request.param], tmp_path_factory.mktemp("tuned"))


@pytest.fixture(scope="module")
def lens(codi):
    """A lens with a map of its own for every step."""
    return train_tuned_lens(codi, QUESTIONS, per_step=True, learning_steps=8)


def spoken(codi, state):
    """Log-probabilities of a state, the final norm and the unembedding written out."""
    norm, model = codi.model.ln_final, codi.model
    if codi.cfg.normalization_type == "LN":
        centred = state - state.mean()
        scaled = centred / (centred.square().mean() + codi.cfg.eps).sqrt() * norm.w + norm.b
    else:
        scaled = state / (state.square().mean() + codi.cfg.eps).sqrt() * norm.w
    logits = scaled @ model.W_U + model.b_U
    return logits - logits.exp().sum().log()


def states(ran, codi, position):
    return [ran.kept[f"blocks.{i}.hook_resid_post"][0, position] for i in range(codi.cfg.n_layers)]


def by_hand(lens, layer, group, state):
    weight, bias = lens.weights[group, layer], lens.biases[group, layer]
    return torch.stack([state[i] + (weight[i] * state).sum() + bias[i] for i in range(len(state))])


def test_a_trained_lens_is_an_affine_map_in_front_of_the_logit_lens(codi, lens):
    question = QUESTIONS[1]
    _, cache = codi.run_with_cache(question, 6)
    ran = plain.run(codi, question, codi.tokens.answer(6))
    read = lens.logits(codi, cache, steps=[2, "eot"]).log_softmax(-1)
    assert not torch.allclose(read, logit_lens(codi, cache, steps=[2, "eot"]).log_softmax(-1))
    for column, step in enumerate((2, "eot")):
        group = lens.held_out.steps.index(step)
        for layer, state in enumerate(states(ran, codi, ran.where[step][-1])):
            expected = spoken(codi, by_hand(lens, layer, group, state))
            torch.testing.assert_close(read[layer, column], expected, rtol=0, atol=1e-9)


def test_the_divergence_is_that_of_the_models_own_runs_on_held_out_questions(codi, lens):
    steps = lens.held_out.steps
    assert steps == ("bot", *range(codi.num_latents()), "eot", "answer")
    found = {(table, step): [] for table in ("logit", "tuned") for step in steps}
    for question in HELD_OUT:
        (answer,) = codi.run_with_hooks(question).answer_tokens
        ran = plain.run(codi, question, answer)
        for group, step in enumerate(steps):
            for position in ran.where[step]:
                own = states(ran, codi, position)
                final = spoken(codi, own[-1])
                for table in ("logit", "tuned"):
                    moved = [
                        by_hand(lens, i, group, h) if table == "tuned" else h
                        for i, h in enumerate(own)
                    ]
                    said = torch.stack([spoken(codi, h) for h in moved])
                    found[table, step].append((final.exp() * (final - said)).sum(-1))
    for (table, step), values in found.items():
        measured = getattr(lens.held_out, table)[:, steps.index(step)]
        torch.testing.assert_close(torch.stack(values).mean(0), measured, rtol=0, atol=1e-9)


def test_an_untrained_lens_is_the_logit_lens_exactly(codi):
    lens = train_tuned_lens(codi, QUESTIONS, learning_steps=0)
    assert torch.equal(lens.held_out.logit, lens.held_out.tuned)
    assert lens.held_out.logit[0].min() > 0
    _, cache = codi.run_with_cache(QUESTIONS[:2], [42, 6])
    assert torch.equal(lens.logits(codi, cache, row=1), logit_lens(codi, cache, row=1))


def test_it_beats_the_logit_lens_at_every_layer_but_the_last_of_the_embedded_model():
    codi = HookedCodi.from_pretrained("toy")
    questions = load_dataset("toy-heldout").questions[:200]
    held_out = train_tuned_lens(codi, questions, learning_steps=100).held_out
    assert (held_out.tuned[:-1].mean(1) < 0.6 * held_out.logit[:-1].mean(1)).all()
    assert (held_out.tuned[-1] == 0).all()


def test_a_lens_comes_back_as_it_was_saved_and_for_its_model_alone(codi, lens, tmp_path):
    lens.save(tmp_path / "lens")
    again = TunedLens.load(tmp_path / "lens", codi)
    _, cache = codi.run_with_cache(QUESTIONS[0], 42)
    assert torch.equal(again.logits(codi, cache), lens.logits(codi, cache))
    assert torch.equal(again.held_out.tuned, lens.held_out.tuned)
    assert (again.held_out.steps, again.held_out.n) == (lens.held_out.steps, 2)
    other = HookedCodi.from_pretrained("toy")
    with pytest.raises(
        UserError, match=r"was trained for the model .* with digest .* train a lens"
    ):
        TunedLens.load(tmp_path / "lens", other)
    with pytest.raises(UserError, match="this lens was trained for the model"):
        lens.logits(other, cache)
    about = tmp_path / "lens" / "tuned_lens.json"
    written = json.loads(about.read_text())
    scaled = written | {"model": written["model"] | {"lora_alpha": 99.0}}
    about.write_text(json.dumps(scaled))
    with pytest.raises(UserError, match=r"with lora_alpha 99\.0"):
        TunedLens.load(tmp_path / "lens", codi)
    about.write_text(json.dumps(written | {"per_step": False}))
    with pytest.raises(UserError, match=r"'weights' has shape .* expected \(1, 2, 32, 32\)"):
        TunedLens.load(tmp_path / "lens", codi)
    about.write_text(json.dumps({"model": written["model"]}))
    with pytest.raises(UserError, match=r"is not a whole tuned lens: KeyError\('steps'\)"):
        TunedLens.load(tmp_path / "lens", codi)
    about.unlink()
    with pytest.raises(UserError, match=r"holds no tuned_lens\.json; give a folder"):
        TunedLens.load(tmp_path / "lens", codi)


def test_what_cannot_be_trained_read_or_saved_is_refused(codi, lens, tmp_path):
    with pytest.raises(UserError, match="1 different questions; give at least 4"):
        train_tuned_lens(codi, ["one"] * 9)
    with pytest.raises(UserError, match="the runs have no step 99; they have prompt, bot, 0"):
        train_tuned_lens(codi, QUESTIONS, steps=[99])
    with pytest.raises(UserError, match="learning_steps is -1; it must be a whole number"):
        train_tuned_lens(codi, QUESTIONS, learning_steps=-1)
    _, cache = codi.run_with_cache(QUESTIONS[0], 42)
    with pytest.raises(UserError, match="no map for step 'prompt'; it was trained at bot, 0"):
        lens.logits(codi, cache, steps=["prompt"])
    in_memory = HookedCodi.from_model(
        codi.model, codi.tokenizer, projection=codi.projection, config=codi.config
    )
    unnamed = train_tuned_lens(in_memory, QUESTIONS, learning_steps=0)
    with pytest.raises(UserError, match="a model from memory, which has no digest"):
        unnamed.save(tmp_path / "lens")
    assert not list(tmp_path.iterdir())
