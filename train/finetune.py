"""Fine-tunes a checkpoint, or a base LLM, on lists in the released format.

    python -m train.finetune --config train/configs/finetune/stage1.yaml model=nano data=pairs.json output=work/stage1
    accelerate launch --config_file train/configs/accelerate/ddp.yaml -m train.finetune --config ... key=value ...

Settings are the fields of vocalnet/training/settings.py: from the yaml, then the options, then key=value. A run that
was interrupted goes on when it is started again. train/README.md has the paper's own setting.
"""

from __future__ import annotations

import argparse
import sys

from vocalnet.training.finetune import finetune
from vocalnet.training.settings import METHODS, read_settings


def main() -> int:
    """Parses arguments, trains a stage and merges it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a yaml of settings, for instance one of train/configs/finetune")
    parser.add_argument("--stage", type=int, choices=METHODS, help="1: speech to text, 2: speech")
    parser.add_argument("--method", help=f"stage 1: {', '.join(METHODS[1])}; stage 2: {', '.join(METHODS[2])}")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="any other setting")
    arguments = parser.parse_args()
    given = {"stage": arguments.stage, "method": arguments.method}
    try:
        print(finetune(read_settings(arguments.config, given, arguments.settings)))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
