"""Programs that use the library: `python -m experiments.NAME`."""
