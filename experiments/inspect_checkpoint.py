"""What a checkpoint is, what became of each of its tensors, and whether its loop computes the right thing.

    python -m experiments.inspect_checkpoint zen-E/CODI-llama3.2-1b-Instruct --device auto --dtype bfloat16

loads the model and prints the load report. Then one question goes through this package's loop and, on the
same merged weights, through plain transformers with its own key/value cache; the largest differences of
thoughts and of answer logits are printed. Exit code 0; 1 if they differ by more than rounding; 2 for a
checkpoint or settings that cannot be used.
"""

import sys

from codi_lens.cli.inspect_checkpoint import main

if __name__ == "__main__":
    sys.exit(main())
