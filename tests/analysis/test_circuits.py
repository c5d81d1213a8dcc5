"""Circuits: the exact run against a plain one, its ends, edge scores against finite differences, CPR and CMD by hand."""

import random

import pytest
import torch

from codi_lens import Pair, UserError, Variant
from codi_lens.analysis.attribution.gradients import Asked, measured, run, unpatched
from codi_lens.analysis.circuits import (
    Edges,
    Faithfulness,
    Graph,
    measure_faithfulness,
    patch_edges,
    run_circuits,
    score_edges,
)
from codi_lens.analysis.circuits.graph import split
from codi_lens.model.hooks import Site
from codi_lens.organisms.scorecard import load_organism
from tests.laws import plain
from tests.models.architectures import MODELS, load
from tests.patching.test_places import UNEQUAL

PAIR = Pair(0, Variant("12 plus 30?", 5), Variant("12 plus 31?", 7))


@pytest.fixture(scope="module", params=["llama, grouped", "gpt2", "qwen3"])
def codi(request, tmp_path_factory):
    return load(MODELS[request.param], tmp_path_factory.mktemp("kinds"))


def spelled_out(codi, graph, kept):
    """One circuit the plain way: whole sequences again at every step, and every input summed up sender by sender."""
    model, tokens = (
        codi.model,
        (*codi.tokens.stem(), *codi.tokens.answer(5)[len(codi.tokens.stem()) :]),
    )
    prompts = [codi.tokens.prompt(side.question) for side in (PAIR.corrupted, PAIR.clean)]
    where = [graph.steps.index("prompt")] * (len(prompts[0]) - 1) + [graph.steps.index("bot")]
    sequences = [model.embed(torch.tensor([prompt])) for prompt in prompts]

    def passed():
        """Final states of the corrupted run, and of the circuit's."""
        length = sequences[0].shape[1]
        constant = torch.zeros_like(sequences[0])
        if model.cfg.positional_embedding_type == "standard":
            constant = constant + model.pos_embed.W_pos[:length]
        said = [[sequence] for sequence in sequences]  # [1, pos, d_model] of each sender so far

        def inputs(name, corrupted):
            receiver = graph.receivers.index(name)
            total = constant.clone()
            for u in range(len(said[0])):
                for p in range(length):
                    clean = not corrupted and bool(kept[where[p], receiver, u])
                    total[0, p] += said[1 if clean else 0][u][0, p]
            return total

        for layer, block in enumerate(model.blocks):
            heads = {}
            for who in (0, 1):
                read = {
                    what: torch.stack([inputs(name, who == 0) for name in names], dim=2)
                    for what, names in {
                        "q": [f"{layer}.{h}.q" for h in range(graph.heads)],
                        "k": [f"{layer}.kv{g}.k" for g in range(graph.kv_heads)],
                        "v": [f"{layer}.kv{g}.v" for g in range(graph.kv_heads)],
                    }.items()
                }
                out = {}
                hook = lambda activation, hook, out=out: out.update(value=activation)  # noqa: E731
                with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_result", hook)]):
                    block.attn(*(block.ln1(read[what]) for what in "qkv"))
                heads[who] = [out["value"][:, :, h] for h in range(graph.heads)]
            for who in (0, 1):
                said[who] += heads[who]
            constant = constant + block.attn.b_O
            mlps = [block.mlp(block.ln2(inputs(f"mlp{layer}", who == 0))) for who in (0, 1)]
            for who in (0, 1):
                said[who].append(mlps[who])
        return [model.ln_final(inputs("out", who == 0)) for who in (0, 1)]

    for k in range(graph.num_latents):
        finals = passed()
        sequences = [
            torch.cat([s, codi.projection(f[:, -1:])], 1)
            for s, f in zip(sequences, finals, strict=True)
        ]
        where.append(graph.steps.index(k))
    end = codi.tokens.end()
    where += [graph.steps.index("eot")] * len(end) + [graph.steps.index("answer")] * len(tokens)
    fed = model.embed(torch.tensor([[*end, *tokens]]))
    sequences = [torch.cat([sequence, fed], 1) for sequence in sequences]
    final = passed()[1]
    logits = model.unembed(final)[0, -(len(tokens) - len(codi.tokens.stem())) - 1]
    (clean,), (corrupted,) = (codi.tokens.answer(n)[len(codi.tokens.stem()) :] for n in (5, 7))
    return float(logits[clean] - logits[corrupted])


def test_the_exact_run_is_the_plain_one(codi):
    graph, rng = Graph.of(codi), random.Random(0)
    circuits = []
    for share in (0.3, 0.7):
        draw = torch.tensor([rng.random() for _ in range(graph.edges.numel())])
        circuits.append(graph.edges & (draw.view(graph.edges.shape) < share))
    found = run_circuits(codi, [PAIR], torch.stack(circuits))[:, 0]
    with split(codi), torch.no_grad():
        expected = [spelled_out(codi, graph, kept) for kept in circuits]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=found.dtype), rtol=0, atol=1e-9)
    assert abs(float(found[0] - found[1])) > 1e-6


def test_all_edges_are_the_clean_run_and_none_the_corrupted_one(codi):
    graph = Graph.of(codi)
    both = torch.stack([graph.edges, torch.zeros_like(graph.edges)])
    found = run_circuits(codi, [PAIR], both)[:, 0]
    clean, corrupted = (
        plain.metrics(codi, PAIR, direction=way)["logit_diff"] for way in ("noise", "denoise")
    )
    assert found.tolist() == pytest.approx([clean, corrupted], abs=1e-9)
    assert not codi.model.cfg.use_attn_result  # as it was before
    edges = Edges(graph, (PAIR,), torch.rand(1, *graph.edges.shape))
    curve = measure_faithfulness(codi, edges, shares=(0.1, 1.0))
    assert curve.signed[-1] == pytest.approx(1, abs=1e-9)
    assert curve.absolute[-1] == pytest.approx(1, abs=1e-9)


def test_a_score_is_the_slope_along_the_change_of_the_sender(codi):
    """Edge by edge, by central differences at the one midpoint that a single step takes."""
    edges = score_edges(codi, [PAIR], steps=1)
    graph = edges.graph
    asked = Asked(codi, [PAIR], "denoise", "logit_diff", graph.num_latents)
    tokens = [codi.tokens.prompts([side.question])[0] for side in (PAIR.corrupted, PAIR.clean)]
    middle = torch.lerp(*(codi.loop.embed(ids) for ids in tokens), 0.5)
    feed = [
        (("hook_embed", "prompt"), lambda a, hook: middle[:, :-1].clone()),
        (("hook_embed", "bot"), lambda a, hook: middle[:, -1:].clone()),
    ]
    writes, reads = graph.writes(), graph.reads()
    for step, (write, own), (name, readers, before) in (
        ("prompt", writes[0], reads[1]),
        (0, writes[0], reads[0]),
        (0, writes[1], reads[3]),
        (1, writes[2], reads[5]),
        ("answer", writes[1], reads[-1]),
    ):
        assert own.start < before
        site, sender = Site(name, step), Site(write, step)
        with split(codi):
            logits, base, source = unpatched(asked, [sender])
            change = source.kept["clean"][sender] - base.kept["clean"][sender]
            change = change if change.ndim == 3 else change[:, :, 0]

            def value(size, site=site, change=change, logits=logits):
                def add(activation, hook):
                    out = activation.clone()
                    (out if out.ndim == 3 else out[:, :, 0]).add_(size * change)
                    return out

                with torch.no_grad():
                    ran = run(asked, [PAIR.corrupted.question], [0], [], [*feed, (site, add)])
                    return float(measured(asked, ran, [0], logits))

            slope = (value(1e-5) - value(-1e-5)) / 2e-5
        found = edges.scores[0, graph.steps.index(step), readers.start, own.start]
        assert float(found) == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_single_edges_are_patched_exactly(codi):
    graph = Graph.of(codi)
    kept = torch.zeros_like(graph.edges)
    chosen = [graph.edge("prompt", "embed", "0.0.q"), graph.edge("prompt", "embed", "mlp0")]
    for edge in chosen:
        kept[edge] = True
    edges = Edges(graph, (PAIR,), torch.zeros(1, *kept.shape))
    found = patch_edges(codi, edges, kept)
    one = torch.zeros_like(kept)
    one[chosen[0]] = True
    both = torch.stack([graph.edges, graph.edges & ~one])
    everything, without = run_circuits(codi, [PAIR], both)[:, 0].tolist()
    assert set(found) == set(chosen)
    assert found[chosen[0]] == pytest.approx(everything - without, abs=1e-12)


def test_areas_by_hand():
    curve = Faithfulness((1, 5, 10), 10, (0.0, 0.5, 1.0), (0.2, 1.4, 1.0))
    assert curve.cpr == pytest.approx(0.4 * 0.25 + 0.5 * 0.75)
    assert curve.cmd == pytest.approx(0.4 * (0.8 + 0.4) / 2 + 0.5 * (0.4 + 0.0) / 2)


def test_pairs_of_unequal_length_are_refused(codi):
    with pytest.raises(UserError, match=r"pair 0: its prompts have .* give pairs of equal length"):
        score_edges(codi, [UNEQUAL])
    with pytest.raises(UserError, match="no sender 'magic'; known are embed"):
        Graph.of(codi).edge(0, "magic", "out")


def test_the_circuit_of_a_planted_chain():
    """The edges of the thoughts that carry results are told from those of idle ones, and few edges are faithful."""
    organism = load_organism("sequential")
    pairs = [pair for pair in organism.pairs if pair.operand in ("x0", "b1")][:8]
    edges = score_edges(organism.codi, pairs)
    graph = edges.graph
    size = edges.mean().abs()
    fed = [float(size[graph.steps.index(k), :, 0].max()) for k in range(graph.num_latents)]
    assert min(fed[k] for k in (0, 2, 4)) > max(fed[k] for k in (1, 3, 5))
    curve = measure_faithfulness(organism.codi, edges, shares=(0.2, 1.0))
    assert curve.absolute[0] == pytest.approx(1, abs=0.1)
