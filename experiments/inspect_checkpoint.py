"""What is in a checkpoint, and does its loop compute the right thing?

    python -m experiments.inspect_checkpoint zen-E/CODI-llama3.2-1b-Instruct --device auto --dtype bfloat16

`codi_lens/cli/inspect_checkpoint.py` has the program, which `codi-lens inspect_checkpoint` runs too.
"""

import sys

from codi_lens.cli.inspect_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
