"""Memory and seconds that loading takes, on a fabricated checkpoint of LLaMA-3.2-1B's or GPT-2's shape.

    python -m experiments.load_benchmark --dtype bfloat16

writes random weights in the official layout (2.9 GB; a .bin 3.4 GB), loads them in a fresh process, and reports the
peak of the memory that is the process's own beside that of the mapped file's pages, which the system
takes back when it needs them. The checkpoint is removed afterwards unless --out says where to keep it.
Linux only: the figures come from /proc.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codi_lens.cli.flags import path
from codi_lens.cli.folders import fresh_folder
from codi_lens.cli.model_flags import add_device, add_dtype
from codi_lens.cli.program import Program
from codi_lens.errors import UserError

LLAMA3 = {
    "model_type": "llama",
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}
SHAPES: dict[str, dict[str, Any]] = {
    "1b": LLAMA3
    | {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "rank": 128,
        "projection_dim": 2048,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
        "n_positions": 1024,
        "layer_norm_epsilon": 1e-5,
        "rank": 128,
        "projection_dim": 768,
    },
    "small": LLAMA3
    | {
        "vocab_size": 2000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "rank": 8,
        "projection_dim": 64,
    },
}
FORMATS = ("safetensors", "sharded", "bin")
MIB = 2**20


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("--shape", default="1b", choices=sorted(SHAPES), help="of the model")
    add("--format", default="safetensors", choices=FORMATS, help="of the weights")
    add_device(parser)
    add_dtype(parser, "bfloat16")
    add("--out", type=path, help="fresh folder to keep the checkpoint in (default: it is removed)")
    add(
        "--measure", type=path, metavar="FOLDER", help="load this checkpoint here, print JSON, stop"
    )


def benchmark(arguments: argparse.Namespace) -> None:
    """Fabricates and loads in processes of their own, so that neither counts the other's memory."""
    if not Path("/proc/self/status").exists():
        raise UserError("this program reads /proc, which only Linux has")
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.device, arguments.dtype)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "checkpoint"
        if arguments.out:
            folder = fresh_folder(arguments.out, "checkpoint")
        fabricate(folder, SHAPES[arguments.shape], arguments.format)
        command = [sys.executable, "-m", "experiments.load_benchmark", "--measure", str(folder)]
        command += ["--device", arguments.device, "--dtype", arguments.dtype]
        # A second process starts from a clean slate; it shares nothing but the file on disk.
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"loading failed: {done.stderr.strip()}")
    print(table(json.loads(done.stdout)))


def fabricate(folder: Path, shape: dict[str, Any], file_format: str) -> None:
    """Writes a random checkpoint: base in bfloat16, adapters and projection in float32."""
    import torch
    from accelerate import init_empty_weights

    from codi_lens.checkpoint.architectures import architecture_of
    from codi_lens.checkpoint.config import CodiConfig
    from codi_lens.checkpoint.layouts import CODI
    from codi_lens.checkpoint.projection import make_projection
    from codi_lens.checkpoint.write import write_checkpoint
    from codi_lens.organisms.toy.tokenizer import ANSWER_STEM, build_tokenizer

    torch.manual_seed(0)
    shape = dict(shape)
    rank, projection_dim = shape.pop("rank"), shape.pop("projection_dim")
    architecture = architecture_of(shape["model_type"])
    shape["vocab_size"] += len(CODI.extra_tokens)
    with init_empty_weights():
        base = architecture.model_class(architecture.config_class.from_dict(shape)).bfloat16()
    base.to_empty(device="cpu").tie_weights()
    for name, parameter in base.named_parameters():
        norm = "norm" in name or ".ln_" in name
        parameter.data.fill_(1.0) if norm else parameter.data.normal_(std=0.02)
    adapters = {}
    for name, parameter in base.named_parameters():
        module, _, leaf = name.rpartition(".")
        if leaf == "weight" and module.endswith(architecture.lora_targets):
            out_size, in_size = parameter.shape[:: -1 if architecture.transposed else 1]
            a, b = torch.randn(rank, in_size), torch.randn(out_size, rank)
            adapters[module] = a * 0.02, b * 0.02
    write_checkpoint(
        folder,
        base=base,
        adapters=adapters,
        projection=make_projection(base.config.hidden_size, projection_dim),
        config=CodiConfig(lora_alpha=32, num_latents=6, remove_eos=True, answer_stem=ANSWER_STEM),
        tokenizer=build_tokenizer(),
        file_format="bin" if file_format == "bin" else "safetensors",
        max_shard_size="1GB" if file_format == "sharded" else None,
    )


def measure(folder: Path, device: str, dtype: str) -> dict[str, Any]:
    """Loads the checkpoint in `folder` in this process; figures in bytes and seconds."""
    from codi_lens import HookedCodi

    before = status()
    started = time.perf_counter()
    with sampled() as samples:
        codi = HookedCodi.from_pretrained(folder, device=device, dtype=dtype)
    seconds = time.perf_counter() - started
    assert codi.load_report is not None
    return {
        "seconds": seconds,
        "weights": codi.load_report.weight_bytes,
        "dtype": dtype,
        "device": codi.load_report.device,
        "file": sum(
            p.stat().st_size for p in folder.iterdir() if p.suffix in (".safetensors", ".bin")
        ),
        "own_before": before["RssAnon"],
        "own_peak": max(sample["RssAnon"] for sample in samples),
        "own_after": status()["RssAnon"],
        "mapped_peak": max(sample["RssFile"] for sample in samples),
        "resident_peak": status()["VmHWM"],
        "device_peak": codi.load_report.peak_device_memory,
    }


def table(figures: dict[str, Any]) -> str:
    """The figures in words."""
    own = figures["own_peak"] - figures["own_before"]
    kept = figures["own_after"] - figures["own_before"]
    weights = figures["weights"]
    rows = [
        ("seconds", f"{figures['seconds']:.1f}"),
        (
            "merged weights",
            f"{weights / MIB:,.0f} MiB in {figures['dtype']} on {figures['device']}",
        ),
        ("weight files", f"{figures['file'] / MIB:,.0f} MiB"),
        (
            "own memory, peak",
            f"{own / MIB:,.0f} MiB over the libraries', {own / weights:.2f} × weights",
        ),
        ("own memory, kept", f"{kept / MIB:,.0f} MiB, {kept / weights:.2f} × weights"),
        ("mapped file, peak", f"{figures['mapped_peak'] / MIB:,.0f} MiB, libraries included"),
        ("resident, peak", f"{figures['resident_peak'] / MIB:,.0f} MiB in all"),
    ]
    if figures["device_peak"] is not None:
        rows.append(("on the device, peak", f"{figures['device_peak'] / MIB:,.0f} MiB"))
    return "\n".join(f"{name:<20} {value}" for name, value in rows)


def status() -> dict[str, int]:
    """This process's memory in bytes: RssAnon (its own), RssFile (mapped), VmHWM (peak of both)."""
    values = {}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile", "VmHWM"):
            values[name] = int(value.split()[0]) * 1024
    return values


@contextmanager
def sampled(interval: float = 0.002) -> Iterator[list[dict[str, int]]]:
    """Collects `status()` from a thread for as long as the context is open."""
    samples = [status()]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(interval):
            samples.append(status())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
        samples.append(status())


main = Program("load_benchmark", __doc__.splitlines()[0], add_flags, benchmark)

if __name__ == "__main__":
    sys.exit(main())
