"""Counterfactual pairs of problems from data sets, right by construction or refused.

arithmetic.py evaluates annotated expressions exactly, solutions.py reads them and what stands around them, numbers.py
knows the numbers of a question, change.py what one may become, follow.py follows it to the answer, and gsm8k.py makes pairs.
prosqa.py exchanges words of a graph. made.py is what comes of it, reasons.py why not, named.py what loads by name."""

from codi_lens.data.counterfactuals.gsm8k import gsm8k_pairs as gsm8k_pairs
from codi_lens.data.counterfactuals.made import Fit as Fit
from codi_lens.data.counterfactuals.made import Made as Made
from codi_lens.data.counterfactuals.made import fitting as fitting
from codi_lens.data.counterfactuals.prosqa import prosqa_pairs as prosqa_pairs
from codi_lens.data.counterfactuals.reasons import Reason as Reason
