"""What does each thought attend to? Attention by head and group of tokens, and to the tokens of one question.

    python -m experiments.attention

`codi_lens/cli/attention.py` has the program, which `codi-lens attention` runs too.
"""

import sys

from codi_lens.cli.attention import main

if __name__ == "__main__":
    sys.exit(main())
