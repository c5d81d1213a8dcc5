"""One file an architecture: its config, read strictly, and what of it is supported."""
