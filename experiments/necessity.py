"""Are the latent thoughts needed? Accuracy with fewer of them, with none, and with others' thoughts.

    python -m experiments.necessity --pairs toy-heldout

asks every question of the pairs under every condition, prints a table, and writes `necessity.json` and
the bar figure `necessity.html`.
"""

import sys

from codi_lens.cli.necessity import main

if __name__ == "__main__":
    sys.exit(main())
