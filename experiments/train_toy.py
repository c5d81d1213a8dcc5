"""Train the embedded model: from a seed to a checkpoint folder, pairs and card included.

    python -m experiments.train_toy --out FOLDER

With the defaults this is how `codi_lens/organisms/toy/model` was made. `--steps` spreads another number of
optimisation steps over the stages, for a quick look; the model is then worse.
"""

import sys

from codi_lens.cli.train_toy import main

if __name__ == "__main__":
    sys.exit(main())
