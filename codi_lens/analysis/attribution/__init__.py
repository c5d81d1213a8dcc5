"""Attribution: gradients through the loop, each map with the figure that says how far to trust it.

* `gradients`: a metric's gradient at places, through thoughts, keys and values.
* `scores`: `attribute`, a score for every place in one backward pass per integration step.
* `fidelity`: how well scores agree with exact patching on a sample of cells.
"""

from codi_lens.analysis.attribution.fidelity import Fidelity
from codi_lens.analysis.attribution.scores import Attribution, attribute

__all__ = ["Attribution", "Fidelity", "attribute"]
