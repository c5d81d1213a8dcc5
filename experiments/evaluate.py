"""How often is the model right? Greedy accuracy on a data set, beside the published figure.

    python -m experiments.evaluate --data toy-heldout

`codi_lens/cli/evaluate.py` has the program, which `codi-lens evaluate` runs too.
"""

import sys

from codi_lens.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
