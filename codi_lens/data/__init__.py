"""Questions and answers: pairs of a clean and a corrupted question, from files and from templates.

answers.py has numbers as text and as tokens, pairs.py the records and their files, prepare.py their checks,
templates.py counterfactual pairs for models of LLaMA's size."""
