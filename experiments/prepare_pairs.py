"""Check a file of clean/corrupted pairs and separate those that cannot be patched between.

    python -m experiments.prepare_pairs FILE --out FOLDER

FILE is in the flat or the prepared format (see `codi_lens.data.pairs`), a folder made by this program,
or "toy". FOLDER gets `pairs.json`, `set_aside.json` and `report.json`. A file with any fault ends
in one message that lists them all, exit code 2, and nothing written.
"""

import sys

from codi_lens.cli.prepare_pairs import main

if __name__ == "__main__":
    sys.exit(main())
