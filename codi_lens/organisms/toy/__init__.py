"""The embedded model: a small CODI LLaMA, the task that it was trained on, and its trainer.

Real checkpoints are gigabytes behind a download; everything in this library should also run, and be
tested, where there is no network. So the package carries its own CODI model, really trained and
really in need of its latent thoughts, in the official checkpoint layout: the code that loads the 1B
checkpoint loads this one.

* `task`: arithmetic word problems, with a split into training and held-out number triples.
* `tokenizer`: a word-level tokenizer for them, shaped like LLaMA-3's where it matters.
* `forward`: CODI's forward pass in a form that can be trained, and greedy evaluation.
* `train`: the recipe, from random weights to the checkpoint folder.
* `pairs`: clean/corrupted pairs that differ in one number, for patching.
* `model/`: the weights, the tokenizer, the pairs, and a card that says how they were made.
"""
