"""Where can a result, an operand or the answer be read off, and where is it used? Linear probes with a control task.

    python -m experiments.probes --model organism:decoy

`codi_lens/cli/probes.py` has the program, which `codi-lens probes` runs too.
"""

import sys

from codi_lens.cli.probes import main

if __name__ == "__main__":
    sys.exit(main())
