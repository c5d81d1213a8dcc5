"""Compare runs of the same model and pairs: laws that must hold, and where the experiments part.

    python -m experiments.compare RUN RUN … --out FOLDER

reads finished records, checks them against each other, and writes `comparison.json` and `comparison.html`. A
check that fails makes the exit code 1 and is named.
"""

import sys

from codi_lens.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
