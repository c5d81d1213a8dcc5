"""Does the model need its thoughts? Accuracy with fewer, with none, and with others' thoughts.

    python -m experiments.necessity --pairs toy-heldout

`codi_lens/cli/necessity.py` has the program, which `codi-lens necessity` runs too.
"""

import sys

from codi_lens.cli.necessity import main

if __name__ == "__main__":
    sys.exit(main())
