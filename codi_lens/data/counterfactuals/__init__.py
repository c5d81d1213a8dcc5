"""Counterfactual pairs of problems from data sets, right by construction or refused.

arithmetic.py evaluates annotated expressions exactly, solutions.py reads them and what stands around them, numbers.py the numbers
of a question, change.py what a number may become, follow.py follows a change to the answer, gsm8k.py makes pairs of it, and
prosqa.py pairs of graphs."""
