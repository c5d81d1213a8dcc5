"""Cells that are zero by construction: what is patched there reaches nothing that is read.

A difference enters the residual stream of its step at a *height* and stays in everything above it. It reaches
later steps by two ways only: through attention, from the first layer whose input it is in, and at a latent step
through the next thought, unless the thoughts fed are another run's. So the lowest height at every step follows
from the graph of the loop, step by step (`heights`), and a cell is zero where no step that is read has one.

Height 4·l is resid_pre of layer l, + 1 its attention's output, + 2 resid_mid, + 3 the MLP's output, + 4 resid_post,
which is the next layer's resid_pre.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from codi_lens.model.hooks import Site, Step
from codi_lens.patching.plan import BASE, NONE, Plan
from codi_lens.patching.schedule import Patch, steps_of

NOWHERE = 10**9
"""The height of no difference at all."""
WITHIN = {
    "resid_pre": 0,
    "ln1": 1,
    "attn": 1,
    "attn_out": 1,
    "resid_mid": 2,
    "ln2": 3,
    "mlp": 3,
    "mlp_out": 3,
    "resid_post": 4,
}
"""Hook point, or module of hook points, in a layer -> the height at which a change there enters the stream."""
SEEN_LATER = ("ln1", "attn.hook_k", "attn.hook_v", "attn.hook_rot_k", "attn.k_norm")
"""Hook points in a layer through which a change reaches later steps by that layer's attention."""
ATTENTION_INPUTS = (*SEEN_LATER, "attn.hook_q", "attn.hook_rot_q", "attn.q_norm")
"""Hook points in a layer that are computed from its input alone, and not from what it attends to."""
Heights = dict[Step | str, int]


def height(site: Site, num_layers: int = 0) -> int:
    """Where a change at a hook point enters the residual stream; the final norm is above all layers."""
    if str(site.name).startswith("ln_final"):
        return 4 * num_layers
    found = re.fullmatch(r"blocks\.(\d+)\.(?:hook_)?(\w+)(?:\..*)?", str(site.name))
    layer, place = found.groups() if found else ("0", "resid_pre")  # unknown: as low as can be
    return 4 * int(layer) + WITHIN.get(place, 0)


def _seen(site: Site, num_layers: int) -> int:
    """Up to which height the activation at a hook point shows a difference in the stream of its step."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.*)", str(site.name))
    inputs = found and found[2].startswith(ATTENTION_INPUTS)
    return 4 * int(found[1]) if found and inputs else height(site, num_layers)


def _later(site: Site) -> int:
    """The height at which a change at a site enters the streams of later steps, the stream aside."""
    found = re.fullmatch(r"blocks\.(\d+)\.(.*)", str(site.name))
    return 4 * int(found[1]) + 1 if found and found[2].startswith(SEEN_LATER) else NOWHERE


def heights(
    changed: Mapping[Step | str, Sequence[Site]],
    steps: Sequence[Step | str],
    num_layers: int,
    fed: Heights | None = None,
) -> Heights:
    """The lowest height at which each step's stream differs from the unpatched run's.

    Args:
        changed: step -> the sites at which something else is put in.
        steps: all steps, in order.
        fed: heights in the run whose thoughts are fed; None: the run's own.
    """
    found: Heights = {}
    later = NOWHERE  # the lowest height at which attention brings differences of earlier steps in
    for before, step in zip((None, *steps[:-1]), steps, strict=True):
        sites = changed.get(step, ())
        thought = (found if fed is None else fed).get(before, NOWHERE)  # type: ignore[arg-type]
        by_thought = 0 if isinstance(step, int) and thought < NOWHERE else NOWHERE
        found[step] = min([later, by_thought, *(height(site, num_layers) for site in sites)])
        layer = -(-found[step] // 4)  # the first whose input differs
        through_stream = 4 * layer + 1 if layer < num_layers else NOWHERE
        later = min([later, through_stream, *map(_later, sites)])
    return found


def structural_zeros(
    plan: Plan, num_latents: int, num_layers: int, read: Sequence[Step | str]
) -> Bool[Tensor, "effect row column"]:
    """The cells of a plan that are zero whatever the weights.

    Args:
        read: the steps at whose final states the answer is read.
    """
    steps = ("prompt", *steps_of(num_latents), "answer")
    # Two questions differ in their tokens: what sites differ between any two runs follows alike.
    questions = heights({"prompt": [Site("hook_embed", "prompt")]}, steps, num_layers)

    base = plan.runs[BASE].prompt
    found: dict[int, Heights] = {}

    def of(index: int) -> Heights:
        """Where a run differs from the base run."""
        run = plan.runs[index]
        if run.prompt != base:
            return questions
        if index not in found:
            changed: dict[Step | str, list[Site]] = {}
            for patch in run.patches:
                if changes(patch):
                    changed.setdefault(patch.site.step, []).append(patch.site)  # type: ignore[arg-type]
            if any(of(other)[latent] < NOWHERE for latent, other in run.remembers):
                attended = Site("blocks.0.attn.hook_pattern")
                changed |= {step: [*changed.get(step, ()), attended] for step in ("eot", "answer")}
            for knockout in run.knockouts:
                lowest = Site(f"blocks.{min(knockout.layers)}.attn.hook_pattern")
                for query in knockout.queries:
                    changed.setdefault(query, []).append(lowest)
            fed = None if run.thoughts_from is None else of(run.thoughts_from)
            found[index] = heights(changed, steps, num_layers, fed)
        return found[index]

    def changes(patch: Patch) -> bool:
        """Whether what goes in can differ from the base run's: else nothing is changed."""
        site, reads = patch.site, patch.intervention.reads
        if site.name == "hook_embed" and isinstance(site.step, int):
            # The thought that a run makes is read, whatever it is fed.
            before = steps[steps.index(site.step) - 1]
            differs = any(of(run)[before] < NOWHERE for run in reads)
        else:
            differs = any(of(run)[site.step] <= _seen(site, num_layers) for run in reads)  # type: ignore[index]
        return differs or not patch.intervention.passes_on

    zero = [
        all(of(index)[step] == NOWHERE for step in read) if run.prompt == base else False
        for index, run in enumerate(plan.runs)
    ]
    return torch.tensor(zero)[plan.cells] & (plan.cells != NONE)
