"""What does each component add to the answer's logits? Direct logit attribution.

    python -m experiments.logit_attribution

`codi_lens/cli/logit_attribution.py` has the program, which `codi-lens logit_attribution` runs too.
"""

import sys

from codi_lens.cli.logit_attribution import main

if __name__ == "__main__":
    sys.exit(main())
