"""Questions and answers: pairs of a clean and a corrupted question, from files and from templates.

answers.py has answers and their tokens, judges.py says which text gives them, pairs.py pairs and their files, prepare.py checks and filters,
templates.py counterfactual pairs for models of LLaMA's size."""
