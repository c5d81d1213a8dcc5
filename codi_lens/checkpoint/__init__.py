"""Files -> merged transformer and projection, with every key claimed once.

hub.py finds the files, config.py and known.py hold the settings that tensors do not show, tensor_files.py and
claims.py account for every key, and merge.py makes the model. Each family of models has a file in architectures/,
and each family of checkpoints one in layouts/."""
