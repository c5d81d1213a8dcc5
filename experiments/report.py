"""One page out of finished runs: maps with a metric menu, pair by pair, cell by cell, and a comparison.

    python -m experiments.report RUN RUN … --out report.html

writes a self-contained page that opens without a network. `--images FOLDER` writes every figure as a file too.
"""

import sys

from codi_lens.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
