"""How much of a patch survives from thought to thought? Iterative patching.

    python -m experiments.iterative_patching

`codi_lens/cli/iterative_patching.py` has the program, which `codi-lens iterative_patching` runs too.
"""

import sys

from codi_lens.cli.iterative_patching import main

if __name__ == "__main__":
    sys.exit(main())
