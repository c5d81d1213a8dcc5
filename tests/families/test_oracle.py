"""The oracle against what others wrote: peft's merge, and attention masks of transformers; and float32 against it."""

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from codi_lens import HookedCodi
from tests.families.bases import KINDS
from tests.families.oracle import Oracle
from tests.families.twins import TWINS, twin

QUESTIONS = ["one plus two?", "one plus 12 plus two plus 7?"]


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_merge_as_peft_merges_them(kind, tmp_path):
    made = twin(f"{kind}-adapter", tmp_path)
    base = AutoModelForCausalLM.from_pretrained(made.options["base"], dtype=torch.float64)
    unmerged = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    base.resize_token_embeddings(made.config.vocab_size, mean_resizing=False)
    merged = PeftModel.from_pretrained(base, made.source).merge_and_unload().state_dict()
    ours = Oracle(made).model.state_dict()
    assert merged.keys() == ours.keys()
    assert max(float((merged[name] - ours[name]).abs().max()) for name in ours) < 1e-12
    moved = [
        n for n in ours if ours[n].shape != unmerged[n].shape or (ours[n] != unmerged[n]).any()
    ]
    heads = {"lm_head.weight", "model.embed_tokens.weight", "transformer.wte.weight"}
    assert len(set(moved) - heads) == 2 * (4 if kind == "gpt2" else 7)


@torch.no_grad()
def padded(oracle, questions, answer):
    """Thoughts and logits of prompts that begin with noise, which the mask hides and positions leave out."""
    rows = [oracle.prompt(question) for question in questions]
    longest = max(map(len, rows))
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    x = torch.randn(len(rows), longest, oracle.twin.config.hidden_size, dtype=torch.float64)
    for i, row in enumerate(rows):
        x[i, longest - len(row) :] = oracle.embed(row)[0]
    thoughts = []

    def forward(model):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        return model(inputs_embeds=x, attention_mask=mask, position_ids=positions, use_cache=False)

    def append(more):
        return torch.cat([x, more], dim=1), torch.cat([mask, mask.new_ones(more.shape[:2])], dim=1)

    for step in range(oracle.twin.num_latents + 1):
        last = forward(oracle.model.base_model).last_hidden_state[:, -1:]
        thoughts.append(oracle.project(last))
        if step < oracle.twin.num_latents:
            x, mask = append(thoughts[-1])
    tail = oracle.embed([*oracle.twin.end, *answer])
    x, mask = append(tail.expand(len(rows), -1, -1))
    return torch.cat(thoughts, dim=1), forward(oracle.model).logits[:, -1 - len(answer) :]


@pytest.mark.parametrize("name", [f"{k}-{layout}" for k in KINDS for layout in ("codi", "coconut")])
def test_padding_on_the_left_changes_nothing(name, tmp_path):
    oracle = Oracle(twin(name, tmp_path))
    answer = oracle.answer(42)
    thoughts, logits = padded(oracle, QUESTIONS, answer)
    for i, question in enumerate(QUESTIONS):
        alone = oracle.run(question, answer)
        assert torch.allclose(thoughts[i], alone["thoughts"], rtol=0, atol=1e-11)
        assert torch.allclose(logits[i], alone["logits"], rtol=0, atol=1e-11)


def distances(found, exact):
    """The largest difference of each quantity, as a part of its largest value."""
    return {
        what: float((found[what].double() - value).abs().max() / value.abs().max())
        for what, value in exact.items()
    }


def plain_single(made, exact):
    """The same loop over transformers' own float32, with nothing in it replaced."""
    single = Oracle(made)
    model = AutoModelForCausalLM.from_config(made.config, dtype=torch.float32).eval()
    model.load_state_dict(exact.model.state_dict(), strict=True)
    single.model, single.layers = model, getattr(model.base_model, "h", None) or model.model.layers
    if single.projection is not None:
        single.projection = {name: tensor.float() for name, tensor in single.projection.items()}
    return single


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_in_single_precision_is_near(name, tmp_path):
    """To 1e-5, or to thrice what transformers itself loses where thoughts amplify rounding."""
    made = twin(name, tmp_path)
    oracle = Oracle(made)
    codi = HookedCodi.from_pretrained(made.source, dtype="float32", **made.options)
    for question in QUESTIONS:
        answer = oracle.answer(42)
        exact = oracle.run(question, answer)
        run = codi.run_with_hooks(question, 42)
        logits, cache = codi.run_with_cache(question, 42)
        found = {what: getattr(run, what)[0] for what in ("thoughts", "final_states", "logits")}
        found["residual"] = torch.stack([cache["resid_post", layer][0] for layer in range(2)])
        found["all_logits"] = logits[0]
        lost = distances(found, exact)
        if max(lost.values()) > 1e-5:
            theirs = distances(plain_single(made, oracle).run(question, answer), exact)
            assert max(lost.values()) < 3 * max(theirs.values()) < 1e-4, (lost, theirs)
