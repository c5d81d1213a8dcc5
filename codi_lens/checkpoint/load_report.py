"""A full report of what loading did: nothing is claimed, dropped or merged silently."""

from dataclasses import dataclass, field

import torch

from codi_lens.memory import peak_memory


@dataclass
class LoadReport:
    """What was found in a checkpoint and what became of it."""

    source: str = ""
    digest: str = ""
    """The model's: SHA-256 over the digests of its weight files, as `tensor_files.model_digest` has it."""
    files: dict[str, str] = field(default_factory=dict)
    """Name of a weight file -> its own SHA-256."""
    claimed: int = 0
    """Tensors of the file that became part of the model."""
    layout: str = ""
    """How the file names its tensors, and what kind of model it holds."""
    family: str = ""
    architecture: str = ""
    """`model_type` of the base model."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Prefix -> number of keys left out under it."""
    rules: dict[str, str] = field(default_factory=dict)
    """Such a prefix -> what the layout says is under it."""
    leftovers: dict[str, int] = field(default_factory=dict)
    """Ending of a buffer's key -> number of such keys left out, as the config determines them."""
    replaced: int = 0
    """Tensors of the base model that an adapter holds as well, resized, and that took their place."""
    wrapper: str = ""
    """What was taken off in front of every key."""
    merged: dict[str, int] = field(default_factory=dict)
    """Target module -> number of adapters merged into it."""
    lora_rank: int = 0
    lora_alpha: float = 0.0
    projection_dim: int | None = None
    """Width of the projection's hidden layer; None where there is no projection."""
    projection_layer_norm: bool | None = None
    parameters: int = 0
    """Parameters of the merged model and the projection; a tied pair counts once."""
    weight_bytes: int = 0
    """Memory of those parameters."""
    vocabulary: int = 0
    """Rows of the embedding, special tokens included."""
    num_latents: int = 0
    sequence: str = ""
    """The tokens of a sequence, in words."""
    answer_stem: str = ""
    special_ids: dict[str, int] = field(default_factory=dict)
    """Ids of pad, bot, eot and eos."""
    dtype: str = ""
    device: str = ""
    peak_memory: int | None = None
    """Most bytes resident in this process so far, mapped file pages included; None if unknown."""
    peak_device_memory: int | None = None
    """Most bytes of CUDA memory allocated so far; None on other devices."""

    def text(self) -> str:
        """The report, a line per fact."""
        width = max(len(name) for name, _ in self._facts())
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self._facts())

    def _facts(self) -> list[tuple[str, str]]:
        stem = repr(self.answer_stem) if self.answer_stem else "none, the answer is bare"
        wrapper = f", {self.wrapper!r} taken off in front of each" if self.wrapper else ""
        if self.replaced:
            wrapper += f"; {self.replaced} of the base model's replaced by the adapter's own"
        dropped = ", ".join(map(self._dropped, self.dropped))
        left_out = filter(None, (dropped, _listed(self.leftovers, "buffers {} {}")))
        facts = [
            ("source", self.source),
            ("family", self.family),
            ("layout", self.layout),
            ("architecture", self.architecture),
            ("model digest", self.digest),
            *(("sha256", f"{digest}  {name}") for name, digest in self.files.items()),
            ("keys claimed", f"{self.claimed}{wrapper}"),
            ("keys dropped", ", ".join(left_out) or "none"),
            ("adapters merged", _listed(self.merged, "{} {}") or "none"),
            *self._lora(),
            ("projection", self._projection()),
            ("thoughts", f"{self.num_latents}"),
            ("sequence", self.sequence),
            ("answer stem", stem),
            ("embedding rows", f"{self.vocabulary:,}"),
            ("special ids", _listed(self.special_ids, "{} {}")),
            ("parameters", f"{self.parameters:,}"),
            ("weights", f"{_size(self.weight_bytes)} in {self.dtype} on {self.device}"),
            ("peak memory", f"{_size(self.peak_memory)} (process, mapped file included)"),
        ]
        if self.peak_device_memory is not None:
            facts.append(("peak on device", _size(self.peak_device_memory)))
        return facts

    @property
    def scale(self) -> float:
        """alpha / rank, by which every adapter was scaled."""
        return self.lora_alpha / self.lora_rank if self.lora_rank else 0.0

    def _lora(self) -> list[tuple[str, str]]:
        if not self.merged:
            return []
        scale = f"rank {self.lora_rank}, alpha {self.lora_alpha:g}, scale {self.scale:g}"
        return [("LoRA", scale)]

    def _dropped(self, prefix: str) -> str:
        what = self.rules.get(prefix)
        return f"under {prefix} {self.dropped[prefix]}" + (f" ({what})" if what else "")

    def _projection(self) -> str:
        if self.projection_dim is None:
            return "none, the final state is fed back as it is"
        norm = "with" if self.projection_layer_norm else "without"
        return f"hidden width {self.projection_dim}, {norm} layer norm"


def measure_peak(report: LoadReport, device: torch.device) -> None:
    """Writes the peak memory of this process, and of its CUDA device, into `report`."""
    report.peak_memory = peak_memory()
    if device.type == "cuda":
        report.peak_device_memory = torch.cuda.max_memory_allocated(device)


def _listed(counts: dict[str, int], pattern: str) -> str:
    return ", ".join(pattern.format(name, count) for name, count in counts.items())


def _size(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 2**20:,.1f} MiB"
