"""codi-lens."""
