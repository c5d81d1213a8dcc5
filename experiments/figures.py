"""The pictures of README: one of each experiment, on the embedded model.

    python -m experiments.figures

measures what they show and writes them to notebooks/figures. Needs the extra `export` and a browser.
"""

import sys

from codi_lens.cli.figures import main

if __name__ == "__main__":
    sys.exit(main())
