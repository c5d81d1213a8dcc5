"""Trains an organism: a small CODI model in which a known mechanism is planted.

    python -m experiments.train_organism sequential --out FOLDER

`codi_lens/cli/train_organism.py` has the program, which `codi-lens train_organism` runs too.
"""

import sys

from codi_lens.cli.train_organism import main

if __name__ == "__main__":
    sys.exit(main())
