"""Files -> merged transformer and projection, with every key claimed once.

hub.py finds the files, config.py and known.py say what tensors cannot, tensor_files.py and claims.py account for
every key, merge.py makes the model; a family of models has a file in architectures/, of checkpoints in layouts/."""
