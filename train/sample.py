"""Ships a few pairs of the data with nano, for whoever prepares data alike: python -m train.sample --work work/full."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vocalnet.training.sample import write_sample


def main() -> int:
    """Writes the sample; run it again when nano gets another speech tokenizer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("work/full"), help="where the corpus was made")
    parser.add_argument("--to", type=Path, default=Path("vocalnet/nano"))
    parser.add_argument("--n", type=int, default=4, help="pairs, each of another topic")
    arguments = parser.parse_args()
    try:
        print(write_sample(arguments.work / "data", arguments.to, arguments.n))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
