"""Through which receiver does a sender act? Path patching.

    python -m experiments.path_patching

`codi_lens/cli/path_patching.py` has the program, which `codi-lens path_patching` runs too.
"""

import sys

from codi_lens.cli.path_patching import main

if __name__ == "__main__":
    sys.exit(main())
