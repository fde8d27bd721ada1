"""Ships a trained checkpoint as the embedded default: python -m train.bundle --work work/full."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vocalnet.files import atomic_path
from vocalnet.training.bundle import bundle, model_card
from vocalnet.training.vocabulary import REFUSAL


def main() -> int:
    """Copies the components unless there is no `--work`, then writes the model card from the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="take new components from here; without it only the card is written")
    parser.add_argument("--heads", nargs="*", help="further decoders to ship (default: all that were trained)")
    parser.add_argument("--note", default="", help="how the training differed from the recipes, for the model card")
    parser.add_argument("--to", type=Path, default=Path("vocalnet/nano"))
    parser.add_argument("--results", type=Path, default=Path("results/eval-nano.json"))
    arguments = parser.parse_args()
    try:
        if arguments.work:
            work, to = arguments.work, arguments.to
            bundle(work / "checkpoint", work / "runs", to, arguments.note, arguments.heads)
        with atomic_path(arguments.to / "README.md") as temporary:
            temporary.write_text(model_card(arguments.to, arguments.results, REFUSAL))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
