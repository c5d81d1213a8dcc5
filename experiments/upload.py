"""Sends a finished run to Weights & Biases.

    python -m experiments.upload RUN

`codi_lens/cli/upload.py` has the program, which `codi-lens upload` runs too.
"""

import sys

from codi_lens.cli.upload import main

if __name__ == "__main__":
    sys.exit(main())
