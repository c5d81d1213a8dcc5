"""What does adding a direction do? A difference of means, at several strengths, beside a random vector.

    python -m experiments.steering --model organism:sequential --place thought --step 2 --label v2

`codi_lens/cli/steering.py` has the program, which `codi-lens steering` runs too.
"""

import sys

from codi_lens.cli.steering import main

if __name__ == "__main__":
    sys.exit(main())
