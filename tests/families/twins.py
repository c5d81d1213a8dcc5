"""Small twins of the checkpoints that people have, written from their layouts with torch, transformers and peft.

Nothing here is shared with the package. `TWINS` has all of them by name.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from tests.families.bases import LEFTOVERS, TOKENIZERS, fresh, projection
from tests.families.files import (
    ALPHA,
    LATENTS,
    SHARP,
    Twin,
    adapted,
    around,
    base_parts,
    own,
    settings,
    under,
    write,
)


def codi(folder: Path, kind: str) -> Twin:
    """safetensors with the tied head once; a base in bfloat16 under adapters in float32; eos around bot and eot."""
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3).bfloat16()
    state = adapted(kind, model).state_dict()
    if model.config.tie_word_embeddings:
        del state["base_model.model.lm_head.weight"]
    file = folder / "model.safetensors"
    write(file, under("codi.", state) | under("prj.", projection()))
    base_parts(folder, model.config, tokenizer, 3)
    settings(folder, lora_alpha=ALPHA, remove_eos=False)
    eos = tokenizer.eos_token_id
    return Twin(
        folder, {}, [file], model.config, tokenizer, [eos, v + 1], [v + 2, eos], never=v + 2,
        base="codi.base_model.model.", projection="prj.",
    )  # fmt: skip


def codi_bin(folder: Path, kind: str) -> Twin:
    """pytorch_model.bin, saved from a wrapper: both names of a tied head, old buffers, the layer norm's number."""
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3)
    state = under("codi.", dict(adapted(kind, model).state_dict()))
    buffers = LEFTOVERS[kind](model.config)
    state |= under("codi.base_model.model.", buffers)
    state |= {f"prj.{key.replace('ln', '4')}": value for key, value in projection().items()}
    file = folder / "pytorch_model.bin"
    write(file, under("module.", state))
    base_parts(folder, model.config, tokenizer, 3)
    settings(folder, lora_alpha=ALPHA, remove_eos=True)
    leftovers = dict(Counter(".".join(key.split(".")[-2:]) for key in buffers))
    return Twin(
        folder, {}, [file], model.config, tokenizer, [v + 1], [v + 2], never=v + 2,
        wrapper="module.", base="codi.base_model.model.", projection="prj.", layer_norm="4",
        leftovers=leftovers,
    )  # fmt: skip


def codi_without_lora(folder: Path, kind: str) -> Twin:
    """From torch.compile's wrapper, in the format that torch saved before 1.6; no layer norm in the projection."""
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3)
    file = folder / "pytorch_model.bin"
    state = under("codi.", own(model)) | under("prj.", projection(norm=False))
    torch.save(under("_orig_mod.", state), file, _use_new_zipfile_serialization=False)
    base_parts(folder, model.config, tokenizer, 3)
    settings(folder, remove_eos=True)
    return Twin(
        folder, {}, [file], model.config, tokenizer, [v + 1], [v + 2], never=v + 2,
        wrapper="_orig_mod.", base="codi.", projection="prj.",
    )  # fmt: skip


def own_tokens(folder: Path, kind: str) -> Twin:
    """Thoughts between tokens of the tokenizer's own: eos in front, none behind, and eot may be chosen."""
    tokenizer, _ = TOKENIZERS[kind]()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|bocot|>", "<|eocot|>"]})
    bot, eot = tokenizer.convert_tokens_to_ids(["<|bocot|>", "<|eocot|>"])
    model = fresh(kind, len(tokenizer))
    file = folder / "pytorch_model.bin"
    write(
        file, under("codi.", dict(adapted(kind, model).state_dict())) | under("prj.", projection())
    )
    base_parts(folder, model.config, tokenizer, 0)
    settings(
        folder, lora_alpha=ALPHA, remove_eos=False, bot_token="<|bocot|>", eot_token="<|eocot|>"
    )
    return Twin(
        folder, {}, [file], model.config, tokenizer, [tokenizer.eos_token_id, bot], [eot],
        base="codi.base_model.model.", projection="prj.",
    )  # fmt: skip


def sim_cot(folder: Path, kind: str) -> Twin:
    """An auxiliary decoder and its maps; config.json of 0 bytes; one shard that has no index."""
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3)
    state = under("codi.", dict(adapted(kind, model).state_dict())) | under("prj.", projection())
    decoder = under("decoder.", own(fresh(kind, v + 3), once=True))
    maps = {
        "pj_in.weight": torch.randn(40, 32),
        "pj_in.bias": torch.randn(40),
        "pj_out.U": torch.randn(40, 8),
        "pj_out.V": torch.randn(8, 32),
    }
    if model.config.tie_word_embeddings:
        del state["codi.base_model.model.lm_head.weight"]
    file = folder / "model-00001-of-00001.safetensors"
    write(file, state | decoder | maps)
    (folder / "config.json").touch()
    settings(folder, lora_alpha=ALPHA, remove_eos=True)
    (folder.parent / f"{folder.name}-base").mkdir()
    base = base_parts(folder.parent / f"{folder.name}-base", model.config, tokenizer, 3)
    return Twin(
        folder, {"base": base}, [file], model.config, tokenizer, [v + 1], [v + 2], never=v + 2,
        base="codi.base_model.model.", projection="prj.",
        dropped={"decoder.": len(decoder), "pj_in.": 2, "pj_out.": 2},
    )  # fmt: skip


def coconut(folder: Path, kind: str) -> Twin:
    """A bare file without a suffix, given as such; config and tokenizer are the base's."""
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3)
    file = folder / "checkpoint_33"
    write(file, around(model))
    (folder / "base").mkdir()
    base = base_parts(folder / "base", model.config, tokenizer, 3)
    options = {"base": base, "num_latents": LATENTS, "answer_stem": SHARP}
    return Twin(
        file, options, [file], model.config, tokenizer, [v], [v + 1], SHARP, "\n",
        base="base_causallm.",
    )  # fmt: skip


def sim_cot_coconut(folder: Path, kind: str) -> Twin:
    """Coconut trained by SIM-CoT, in a folder with everything beside it."""
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3)
    decoder = under("expainable_llm.", own(fresh(kind, v + 3)))
    file = folder / "checkpoint_33"
    write(file, around(model) | decoder)
    base_parts(folder, model.config, tokenizer, 3)
    settings(folder, SHARP)
    return Twin(
        folder, {"weights": "checkpoint_33"}, [file], model.config, tokenizer, [v], [v + 1], SHARP,
        "\n", base="base_causallm.", dropped={"expainable_llm.": len(decoder)},
    )  # fmt: skip


def adapter(folder: Path, kind: str) -> Twin:
    """peft's folder with the grown embedding in it, `prj.pt` beside it, over the base's own weights."""
    tokenizer, v = TOKENIZERS[kind]()
    small = fresh(kind, v)
    (folder / "base").mkdir()
    small.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    small.resize_token_embeddings(v + 3, mean_resizing=False)
    wrapped = adapted(kind, small)
    wrapped.save_pretrained(folder, save_embedding_layers=True)
    tokenizer.save_pretrained(folder)
    write(folder / "prj.pt", projection())
    settings(folder, remove_eos=True)
    files = [
        folder / "base/model.safetensors",
        folder / "adapter_model.safetensors",
        folder / "prj.pt",
    ]
    return Twin(
        folder, {"base": folder / "base"}, files, small.config, tokenizer, [v + 1], [v + 2],
        never=v + 2, adapters="base_model.model.", projection="",
        replaced=1 if small.config.tie_word_embeddings else 2,
    )  # fmt: skip


def merged(folder: Path, kind: str) -> Twin:
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write(folder / "prj.safetensors", under("prj.", projection()))
    settings(folder, remove_eos=True)
    return Twin(
        folder, {}, [folder / "model.safetensors", folder / "prj.safetensors"], model.config,
        tokenizer, [v + 1], [v + 2], never=v + 2, projection="prj.",
    )  # fmt: skip


def plain(folder: Path, kind: str) -> Twin:
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    settings(folder, num_latents=0)
    file = folder / "model.safetensors"
    return Twin(folder, {}, [file], model.config, tokenizer, [], [], num_latents=0)


def pauses(folder: Path, kind: str) -> Twin:
    """Coconut's three tokens, and its placeholder in the places of thoughts."""
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3)
    file = folder / "checkpoint_33"
    write(file, around(model))
    base_parts(folder, model.config, tokenizer, 3)
    begin = ["bot", *["latent"] * LATENTS, "eot"]
    settings(folder, SHARP, 0, begin=begin, end=[])
    return Twin(
        folder, {"weights": "checkpoint_33"}, [file], model.config, tokenizer,
        [v, *[v + 2] * LATENTS, v + 1], [], SHARP, "\n", num_latents=0, base="base_causallm.",
    )  # fmt: skip


def multimode(folder: Path, kind: str) -> Twin:
    """CODI with two rows more, bot and eot; LLaMA's prompt ends in a token of its tokenizer's."""
    tokenizer, v = TOKENIZERS[kind]()
    begin, ids = ["bot"], []
    if kind == "llama":
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|eot_id|>"]})
        begin, ids, v = ["<|eot_id|>", "bot"], [v], v + 1
    model = fresh(kind, v + 2)
    file = folder / "pytorch_model.bin"
    state = dict(adapted(kind, model).state_dict())
    write(file, under("codi.", state) | under("prj.", projection()))
    base_parts(folder, model.config, tokenizer, 2)
    frame = {"extra_tokens": ["bot", "eot"], "begin": begin, "end": ["eot"], "forbid_eot": False}
    settings(folder, lora_alpha=ALPHA, **frame)
    return Twin(
        folder, {}, [file], model.config, tokenizer, [*ids, v], [v + 1],
        base="codi.base_model.model.", projection="prj.",
    )  # fmt: skip


def projector_inside(folder: Path, kind: str) -> Twin:
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v + 3)
    file = folder / "model.safetensors"
    inside = {f"projector.{k.replace('ln', '4')}": t for k, t in projection().items()}
    write(file, own(model, once=True) | inside)
    base_parts(folder, model.config, tokenizer, 3)
    settings(folder, remove_eos=True)
    return Twin(
        folder, {}, [file], model.config, tokenizer, [v + 1], [v + 2], never=v + 2,
        projection="projector.", layer_norm="4",
    )  # fmt: skip


def bare_keys(folder: Path, kind: str) -> Twin:
    """As the hub's GPT-2 has them, its masks among them."""
    tokenizer, v = TOKENIZERS[kind]()
    model = fresh(kind, v)
    state = own(model, once=True) | LEFTOVERS[kind](model.config)
    file = folder / "model.safetensors"
    write(file, {key.removeprefix("transformer."): tensor for key, tensor in state.items()})
    base_parts(folder, model.config, tokenizer, 0)
    settings(folder, num_latents=0)
    return Twin(
        folder, {}, [file], model.config, tokenizer, [], [], num_latents=0,
        leftovers={"attn.bias": 2, "attn.masked_bias": 2},
    )  # fmt: skip


EVERY: tuple[Callable[[Path, str], Twin], ...] = (
    codi, codi_bin, codi_without_lora, sim_cot, coconut, sim_cot_coconut, adapter, merged, plain,
    pauses, multimode,
)  # fmt: skip
TWINS: dict[str, tuple[Callable[[Path, str], Twin], str]] = {
    f"{kind}-{write.__name__}": (write, kind)
    for kind, writers in {
        "llama": (*EVERY, own_tokens),
        "gpt2": (*EVERY, projector_inside, bare_keys),
        "qwen2": EVERY,
        "qwen3": (*EVERY, own_tokens),
    }.items()
    for write in writers
}


def twin(name: str, folder: Path) -> Twin:
    """Writes one of `TWINS`, the same each time."""
    torch.manual_seed(sorted(TWINS).index(name))
    write, kind = TWINS[name]
    return write(folder, kind)
