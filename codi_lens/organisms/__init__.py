"""Models that ship with the package, or are trained by it."""
