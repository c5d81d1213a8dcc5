"""Measures whether an organism does what its card says; exit code 1 if it misses a bar.

Asks held-out problems, and makes every interchange of its mechanism between them.
"""

import argparse
from typing import TYPE_CHECKING

from codi_lens.cli import flags
from codi_lens.cli.program import Program

if TYPE_CHECKING:
    from codi_lens.organisms.planted.certify import Certificate


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The program's flags."""
    add = parser.add_argument
    add("name", metavar="NAME", help="of a shipped organism, or the folder of one")
    add("--problems", type=int, default=1000, help="held-out problems")
    flags.add_threads(parser)


def measure(arguments: argparse.Namespace) -> bool:
    """Prints the certificate; whether it holds."""
    from codi_lens.organisms.planted.certify import certify
    from codi_lens.organisms.scorecard.organism import load_organism
    from codi_lens.threads import choose_threads

    organism = load_organism(arguments.name)
    choose_threads(organism.codi.model.cfg.d_model, arguments.threads)
    certificate = certify(organism.codi, organism.truth, arguments.problems)
    print_certificate(certificate)
    return certificate.holds


def print_certificate(certificate: "Certificate") -> None:
    """As a table, with the bars."""
    from codi_lens.organisms.planted.certify import BAR_ACCURACY, BAR_RULES

    rows = [("answers", certificate.accuracy, BAR_ACCURACY)]
    rows += [(rule, rate, BAR_RULES) for rule, rate in certificate.rules.items()]
    width = max(len(name) for name, *_ in rows)
    for name, rate, bar in rows:
        print(f"{name:<{width}}  {rate:.3f}  {'' if rate >= bar else f'misses {bar}'}".rstrip())
    print(f"n = {certificate.n} held-out problems")


main = Program("certify", __doc__, add_flags, measure)
