"""Send a finished run to Weights & Biases.

    python -m experiments.upload RUN

sends what `--wandb online` would have sent while it ran: settings, aggregates, figures, cells and the record.
"""

import sys

from codi_lens.cli.upload import main

if __name__ == "__main__":
    sys.exit(main())
