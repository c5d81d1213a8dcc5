"""One file a family of checkpoints: the names of its tensors."""
