"""Fabricated official checkpoints, loaded and compared with plain transformers and peft."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from codi_lens import HookedCodi, UserError
from codi_lens.checkpoint.config import CONFIG_NAME
from codi_lens.checkpoint.merge import merge_adapter
from codi_lens.checkpoint.projection import make_projection
from codi_lens.checkpoint.tensor_files import PICKLED, SAFETENSORS, CheckpointError
from tests.models.tiny import LLAMA3_ROPE, TARGETS, PlainCodi, tiny_config, write_tiny

EMBEDDING = "codi.base_model.model.model.embed_tokens.weight"
HEAD = "codi.base_model.model.lm_head.weight"
QUESTION, ANSWER = "one plus two?", 3612

VARIANTS = {
    "plain": {},
    "rank 1, alpha 32": {"rank": 1, "config": tiny_config(lora_alpha=32.0)},
    "rank 8, alpha 2": {"rank": 8, "config": tiny_config(lora_alpha=2.0)},
    "rank above the width": {"rank": 40, "config": tiny_config(lora_alpha=40.0)},
    "four targets": {"targets": TARGETS[:4]},
    "no layer norm": {"layer_norm": False},
    "no projection": {"projection_dim": None, "config": tiny_config(has_projection=False)},
    "wide projection": {"projection_dim": 80},
    "untied head": {"tied": False},
    "full heads": {"kv_heads": 4},
    "one key/value head": {"kv_heads": 1},
    "llama3 rope": {"rope": LLAMA3_ROPE},
    "attention bias": {"llama_options": {"attention_bias": True}},
    "mixed dtypes": {"base_dtype": torch.bfloat16},
    "bin, mixed dtypes": {"base_dtype": torch.bfloat16, "file_format": "bin"},
    "bin, untied head": {"tied": False, "file_format": "bin"},
    "sharded": {"max_shard_size": "40KB"},
    "eos around the thoughts": {"config": tiny_config(remove_eos=False)},
    "own special tokens": {
        "config": tiny_config(
            bot_token="<|bocot|>", eot_token="<|eocot|>", remove_eos=False, answer_stem=""
        )
    },
    "no latents": {"config": tiny_config(num_latents=0)},
}


def read_tensors(folder):
    """The tensors of a folder, by a reader that shares nothing with the library's."""
    if (folder / PICKLED).exists():
        return torch.load(folder / PICKLED, weights_only=True)
    tensors = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= load_file(shard)
    return tensors


def agreement(folder, dtype, tensors=None, **settings):
    """Largest differences of answer logits and of thoughts from plain transformers and peft."""
    codi = HookedCodi.from_pretrained(folder, dtype=dtype, **settings)
    plain = PlainCodi(folder, tensors or read_tensors(folder), codi.config)
    run = codi.run_with_hooks(QUESTION, ANSWER)
    expected = plain.run(QUESTION, codi.tokens.answer(ANSWER), codi.config.num_latents)
    logits = (run.logits[0] - expected["logits"]).abs().max()
    return float(logits), float((run.thoughts[0] - expected["thoughts"]).abs().max())


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_equals_plain_transformers_and_peft(tmp_path, variant):
    write_tiny(tmp_path, spread=0.15, **variant)
    assert max(agreement(tmp_path, torch.float32)) < 1e-5
    # transformers keeps the frequencies of LLaMA-3's rope in float32 whatever the model's dtype.
    assert max(agreement(tmp_path, torch.float64)) < (1e-6 if "rope" in variant else 1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 0.2), (torch.float16, 0.02)])
def test_half_precision(tmp_path, dtype, tolerance):
    write_tiny(tmp_path, spread=0.15, base_dtype=torch.bfloat16)
    codi = HookedCodi.from_pretrained(tmp_path, dtype=dtype, device="auto")
    assert {p.dtype for p in codi.model.parameters()} == {dtype}
    assert {p.dtype for p in codi.projection.parameters()} == {dtype}
    assert 0 < max(agreement(tmp_path, dtype)) < tolerance


@pytest.mark.parametrize("stored", [(EMBEDDING,), (HEAD,), (EMBEDDING, HEAD)])
def test_either_of_the_tied_keys_will_do(tmp_path, stored):
    write_tiny(tmp_path, spread=0.15)
    tensors = load_file(tmp_path / SAFETENSORS)
    shared = tensors.pop(EMBEDDING)
    save_file(tensors | {key: shared.clone() for key in stored}, tmp_path / SAFETENSORS)
    assert max(agreement(tmp_path, torch.float32)) < 1e-5


def test_tied_keys_that_differ_are_refused(tmp_path):
    write_tiny(tmp_path)
    tensors = load_file(tmp_path / SAFETENSORS)
    head = tensors[EMBEDDING].clone()
    head[5, 5] += 1e-6
    save_file(tensors | {HEAD: head}, tmp_path / SAFETENSORS)
    with pytest.raises(CheckpointError, match=r"embed_tokens.weight' and .*lm_head.weight' differ"):
        HookedCodi.from_pretrained(tmp_path)


def test_untied_keys_may_differ_and_are_both_used(tmp_path):
    write_tiny(tmp_path, tied=False)
    codi = HookedCodi.from_pretrained(tmp_path)
    assert not torch.equal(codi.model.W_E, codi.model.W_U.T)


DECODER = {
    "decoder.model.embed_tokens.weight": torch.full((4, 4), float("nan")),
    "decoder.lm_head.weight": torch.zeros(4, dtype=torch.long),
}


class TestDroppedKeys:
    def test_are_dropped_by_name_and_counted(self, tmp_path):
        config = tiny_config(drop_prefixes=("decoder.",))
        write_tiny(tmp_path / "with", config=config, extra=DECODER, spread=0.15)
        write_tiny(tmp_path / "without", spread=0.15)
        tensors = read_tensors(tmp_path / "without")
        assert max(agreement(tmp_path / "with", torch.float32, tensors)) < 1e-5
        report = HookedCodi.from_pretrained(tmp_path / "with").load_report
        assert report.dropped == {"decoder.": 2}
        assert report.claimed == len(tensors)

    def test_are_dropped_by_the_layout_s_rule(self, tmp_path):
        report = HookedCodi.from_pretrained(write_tiny(tmp_path, extra=DECODER)).load_report
        assert report.dropped == {"decoder.": 2}
        assert "under decoder. 2 (SIM-CoT's auxiliary decoder)" in report.text()

    def test_are_an_error_where_no_rule_names_them(self, tmp_path):
        write_tiny(tmp_path, extra={"teacher.lm_head.weight": torch.zeros(4)})
        with pytest.raises(CheckpointError, match=r"'teacher\.lm_head\.weight' is not part of"):
            HookedCodi.from_pretrained(tmp_path)

    @pytest.mark.parametrize(
        "prefix", ["prj.ln", "codi.", "", "c", "codi.base_model.model.lm_head"]
    )
    def test_no_rule_can_drop_a_part_of_the_model(self, tmp_path, prefix):
        write_tiny(tmp_path)
        values = json.loads((tmp_path / CONFIG_NAME).read_text()) | {"drop_prefixes": [prefix]}
        (tmp_path / CONFIG_NAME).write_text(json.dumps(values))
        with pytest.raises(UserError, match="part of the model itself"):
            HookedCodi.from_pretrained(tmp_path)


class TestReport:
    def test_says_what_became_of_everything(self, tmp_path):
        write_tiny(tmp_path, base_dtype=torch.bfloat16)
        report = HookedCodi.from_pretrained(tmp_path, dtype=torch.bfloat16).load_report
        tensors = read_tensors(tmp_path)
        assert report.claimed == len(tensors)
        assert report.merged == dict.fromkeys(TARGETS, 3)
        assert (report.lora_rank, report.lora_alpha, report.scale) == (4, 12.0, 3.0)
        assert (report.projection_dim, report.projection_layer_norm) == (24, True)
        # The merged model has all tensors but the adapters; the tied head has none of its own.
        merged = sum(t.numel() for key, t in tensors.items() if ".lora_" not in key)
        assert (report.parameters, report.weight_bytes) == (merged, 2 * merged)
        assert report.special_ids == {"pad": 114, "bot": 115, "eot": 116, "eos": 1}
        assert report.peak_memory > 100 * 2**20

    def test_text_is_a_line_per_fact(self, tmp_path):
        write_tiny(tmp_path, projection_dim=None, config=tiny_config(has_projection=False))
        text = HookedCodi.from_pretrained(tmp_path).load_report.text()
        assert "LoRA             rank 4, alpha 12, scale 3" in text
        assert "keys dropped     none" in text
        assert "projection       none, the final state is fed back" in text
        assert "special ids      pad 114, bot 115, eot 116, eos 1" in text

    @pytest.mark.parametrize("options", [{}, {"max_shard_size": "40KB"}, {"file_format": "bin"}])
    def test_digest_follows_the_bytes_of_the_weights(self, tmp_path, options):
        digests = [
            HookedCodi.from_pretrained(write_tiny(tmp_path / name, seed=seed, **options)).digest
            for name, seed in (("a", 0), ("b", 0), ("c", 1))
        ]
        assert digests[0] == digests[1] != digests[2]


def test_every_adapter_matters(tmp_path):
    """Zeroing any one adapter changes the logits, so a loader that skips one cannot pass."""
    write_tiny(tmp_path)
    reference = HookedCodi.from_pretrained(tmp_path).run_with_hooks(QUESTION, ANSWER).logits
    tensors = load_file(tmp_path / SAFETENSORS)
    for target in TARGETS:
        key = next(k for k in tensors if f"layers.1.{_block(target)}.{target}.lora_B" in k)
        save_file(tensors | {key: torch.zeros_like(tensors[key])}, tmp_path / SAFETENSORS)
        logits = HookedCodi.from_pretrained(tmp_path).run_with_hooks(QUESTION, ANSWER).logits
        assert (logits - reference).abs().max() > 1e-2, target


def _block(target):
    return "self_attn" if target in TARGETS[:4] else "mlp"


def test_merge_adapter_by_hand():
    weight, a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0]]), torch.tensor([[5.0]])
    # 1 · 0.5 / rank 1: [1, 2] + 0.5 · 5 · [3, 4]
    merged = merge_adapter(weight, a, b, alpha=0.5)
    assert merged.tolist() == [[8.5, 12.0]]
    assert weight.tolist() == [[1.0, 2.0]]


def test_merge_happens_in_float32_before_the_cast(tmp_path):
    """In bfloat16 1 + 2⁻⁹ is 1; with 2⁻⁹ added twice in float32 it is not."""
    one = torch.ones(1, 1, dtype=torch.bfloat16).float()
    step = torch.full((1, 2), 2.0**-8)
    merged = merge_adapter(one, step.T, torch.ones(1, 2), alpha=2.0)
    assert merged.bfloat16().item() == 1 + 2**-7


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_the_model_does_not_change_with_the_file(tmp_path, file_format):
    write_tiny(tmp_path, file_format=file_format, tied=False)
    codi = HookedCodi.from_pretrained(tmp_path)
    before = codi.run_with_hooks(QUESTION, ANSWER).logits
    weights = next(p for p in tmp_path.iterdir() if p.name in (SAFETENSORS, PICKLED))
    with weights.open("r+b") as handle:
        size = weights.stat().st_size
        handle.write(b"\0" * size)
    assert torch.equal(codi.run_with_hooks(QUESTION, ANSWER).logits, before)


def test_projection_has_the_official_names_and_exact_gelu():
    projection = make_projection(4, 6)
    assert list(projection.state_dict()) == [
        "1.weight", "1.bias", "3.weight", "3.bias", "ln.weight", "ln.bias",
    ]  # fmt: skip
    assert projection[2].approximate == "none"
    assert make_projection(4, 6, layer_norm=False)[-1] is projection[3] or len(projection) == 5
