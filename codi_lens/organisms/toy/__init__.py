"""The embedded models, the task that they were trained on, and their trainer.

Real checkpoints are gigabytes behind a download; everything in this library should also run, and be
tested, where there is no network. So the package carries models of its own, really trained and
really in need of their latent thoughts, in official checkpoint layouts: the code that loads the 1B
checkpoint loads these. There is a CODI LLaMA (`toy`), a CODI GPT-2 (`toy-gpt2`), and a Coconut GPT-2
(`toy-coconut`).

* `task`: arithmetic word problems, with a split into training and held-out number triples.
* `tokenizer`: word-level tokenizers for them, shaped like LLaMA-3's and GPT-2's where it matters.
* `family`: what tells the models apart.
* `forward`: CODI's forward pass in a form that can be trained, and greedy evaluation.
* `train`: the recipes, from random weights to trained ones; `export`: from those to a checkpoint folder.
* `pairs`: clean/corrupted pairs that differ in one number, for patching.
* `model/`, `model_gpt2/`, `model_coconut/`: weights, tokenizer, pairs, and a card that says how they were made.
"""
