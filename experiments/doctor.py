"""What works on this machine, and what would fix the rest?

    python -m experiments.doctor

`codi_lens/cli/doctor.py` has the program, which `codi-lens doctor` runs too.
"""

import sys

from codi_lens.cli.doctor import main

if __name__ == "__main__":
    sys.exit(main())
