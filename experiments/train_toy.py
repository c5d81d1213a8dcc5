"""Trains an embedded model: from a seed to a checkpoint with pairs and a card.

    python -m experiments.train_toy --out FOLDER

`codi_lens/cli/train_toy.py` has the program, which `codi-lens train_toy` runs too.
"""

import sys

from codi_lens.cli.train_toy import main

if __name__ == "__main__":
    sys.exit(main())
