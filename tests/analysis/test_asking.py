"""Accuracy under hooks: what a question is answered with something put in, as a plain run answers it."""

import pytest
import torch

from codi_lens import HookedCodi, Site, UserError, ask_under_hooks, load_pairs, mean_activations
from codi_lens.model.hooks import replace


def test_the_mean_of_a_thought_over_a_data_set_and_the_accuracy_under_it():
    """A study in ten lines: mean ablation of every thought of the embedded model."""
    codi, pairs = HookedCodi.from_pretrained("toy"), load_pairs("toy")[:20]
    questions, answers = [p.clean.question for p in pairs], [p.clean.answer for p in pairs]
    thoughts = [Site("hook_embed", k) for k in range(6)]
    means = mean_activations(codi, questions, thoughts)
    found = [ask_under_hooks(codi, questions, answers, [(s, replace(means[s]))]) for s in thoughts]
    assert ask_under_hooks(codi, questions, answers).accuracy == 1
    assert found[0].accuracy == 1, "the answer does not depend on the first thought"
    assert min(condition.accuracy for condition in found) < 0.5
    alone = [
        codi.generate(q, fwd_hooks=[(thoughts[2], replace(means[thoughts[2]]))]) for q in questions
    ]
    assert list(found[2].texts) == alone
    own = torch.stack([codi.run_with_hooks(q, 1).thoughts[0, 2] for q in questions]).mean(0)
    torch.testing.assert_close(means[thoughts[2]].to(own), own, atol=1e-5, rtol=0)


def test_questions_and_answers_go_together(tiny):
    with pytest.raises(UserError, match="1 questions and 2 answers; give one answer each"):
        ask_under_hooks(tiny, ["12 plus 30?"], [1, 2])
    with pytest.raises(UserError, match="there are no questions to look at"):
        mean_activations(tiny, [], [Site("hook_embed", 0)])
