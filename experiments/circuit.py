"""Which edges carry the answer? Circuits of the unrolled loop.

    python -m experiments.circuit --model organism:sequential --pairs organism:sequential

`codi_lens/cli/circuit.py` has the program, which `codi-lens circuit` runs too.
"""

import sys

from codi_lens.cli.circuit import main

if __name__ == "__main__":
    sys.exit(main())
