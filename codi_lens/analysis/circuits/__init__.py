"""Circuits of the unrolled loop: which edges between heads, MLPs and thoughts carry an answer.

* `graph`: nodes and edges at every step, and the model's own hook points that they are.
* `edges`: a score for every edge in one backward pass per integration step (edge attribution).
* `faithfulness`: the exact run of a circuit, and the curve of its faithfulness with CPR and CMD.
"""

from codi_lens.analysis.circuits.edges import Edges, score_edges
from codi_lens.analysis.circuits.faithfulness import (
    Faithfulness,
    measure_faithfulness,
    patch_edges,
    run_circuits,
)
from codi_lens.analysis.circuits.graph import Graph

__all__ = [
    "Edges",
    "Faithfulness",
    "Graph",
    "measure_faithfulness",
    "patch_edges",
    "run_circuits",
    "score_edges",
]
