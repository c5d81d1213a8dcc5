"""Probes: what can be read off every place and step, and whether it is used there.

* `fitting`: labels, folds, the control task, and scikit-learn's estimators.
* `maps`: `probe`, a probe for every cell of a map.
* `usage`: what exchanging the subspaces that probes read does to the answer.
"""

from codi_lens.analysis.probes.maps import Probes, probe
from codi_lens.analysis.probes.usage import Usage, measure_usage

__all__ = ["Probes", "Usage", "measure_usage", "probe"]
