"""What do finished runs say? One page: what was found, maps, pairs, cells, a comparison, methods.

    python -m experiments.report RUN RUN … --out report.html

`codi_lens/cli/report.py` has the program, which `codi-lens report` runs too.
"""

import sys

from codi_lens.cli.report import main

if __name__ == "__main__":
    sys.exit(main())
