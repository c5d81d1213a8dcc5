"""From trained weights to an organism's folder: a CODI checkpoint, pairs, the truth, and a card with the certificate."""

import copy
from collections.abc import Sequence
from pathlib import Path

from codi_lens.analysis.asking import right
from codi_lens.checkpoint.config import CodiConfig
from codi_lens.checkpoint.write import write_checkpoint
from codi_lens.data.pairs import PAIRS_FILE, write_pairs
from codi_lens.files import write_json, write_text
from codi_lens.model.hooked_codi import HookedCodi
from codi_lens.organisms.planted.card import make_card
from codi_lens.organisms.planted.certify import ANSWER_TOKENS, Certificate, certify
from codi_lens.organisms.planted.family import FAMILY, STEM
from codi_lens.organisms.planted.losses import Trained
from codi_lens.organisms.planted.pairs import N_PAIRS, make_pairs
from codi_lens.organisms.planted.task import Problem
from codi_lens.organisms.planted.truth import read_truth, truth_of, write_truth

CURVE_FILE = "training.json"


def write_weights(run: Trained, folder: Path) -> None:
    """Weights in half precision, config and tokenizer, in CODI's layout."""
    write_checkpoint(
        folder,
        base=copy.deepcopy(run.model).to(FAMILY.weights),  # type: ignore[arg-type]
        adapters={},
        projection=copy.deepcopy(run.projection).to(FAMILY.weights),
        config=CodiConfig(
            num_latents=run.recipe.mechanism.num_latents, remove_eos=True, answer_stem=STEM
        ),
        tokenizer=run.tokenizer,
        layout=FAMILY.layout,
    )


def write_organism(run: Trained, folder: Path) -> Certificate:
    """Writes weights, truth, curve and card; what is measured is what anyone will load. Returns the certificate."""
    write_weights(run, folder)
    truth = truth_of(run.recipe.name, run.subspaces)
    write_truth(truth, folder)
    write_json(
        {
            folder / CURVE_FILE: {
                "recipe": vars(run.recipe),
                "curve": [vars(line) for line in run.curve],
            }
        }
    )
    certificate = certify(HookedCodi.from_pretrained(folder), truth)
    write_text(folder / "README.md", make_card(run, truth, certificate))
    return certificate


def add_pairs(folder: Path, seed: int = 0, count: int = N_PAIRS) -> None:
    """Writes pairs beside an organism, which answers both sides of each right.

    Raises:
        UserError: it answers too few problems right.
    """
    codi, task = HookedCodi.from_pretrained(folder), read_truth(folder).planted.task

    def answered(problems: Sequence[Problem]) -> Sequence[bool]:
        questions = [problem.question for problem in problems]
        texts = codi.generate(questions, max_new_tokens=ANSWER_TOKENS)
        return right(codi, texts, [problem.answer for problem in problems])

    write_pairs(folder / PAIRS_FILE, make_pairs(task, answered, seed=seed, count=count))
