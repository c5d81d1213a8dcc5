"""What could be read off every layer and step? The logit lens or the tuned lens, with a control.

    python -m experiments.lens --kind tuned

`codi_lens/cli/lens.py` has the program, which `codi-lens lens` runs too.
"""

import sys

from codi_lens.cli.lens import main

if __name__ == "__main__":
    sys.exit(main())
