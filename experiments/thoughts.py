"""What does each thought of one question say, read and do? A page to look at, and to send to a friend.

    python -m experiments.thoughts

`codi_lens/cli/thoughts.py` has the program, which `codi-lens thoughts` runs too.
"""

import sys

from codi_lens.cli.thoughts import main

if __name__ == "__main__":
    sys.exit(main())
