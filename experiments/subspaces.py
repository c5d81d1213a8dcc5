"""In which subspace of which place is a result held? Distributed alignment search.

    python -m experiments.subspaces --model organism:subspace

`codi_lens/cli/subspaces.py` has the program, which `codi-lens subspaces` runs too.
"""

import sys

from codi_lens.cli.subspaces import main

if __name__ == "__main__":
    sys.exit(main())
