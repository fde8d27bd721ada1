"""Records the shipped runs with nano: `python -m demo.recorded.record`, whenever its weights have changed.

Each answers one example question as the tab Streaming does, after a first answer that only warms up.
"""

from __future__ import annotations

import vocalnet
from demo.decoding import decode_options
from demo.examples import EXAMPLES
from demo.recorded import FOLDER
from vocalnet import runs

RECORDED = {"capital": 3, "sum": 1}  # an example and its tokens per step


def main() -> None:
    """Records them all over the old ones."""
    model = vocalnet.load("nano", device="cpu")
    by_name = {example.path.stem: example for example in EXAMPLES}
    for name, tokens_per_step in RECORDED.items():
        example = by_name[name]
        options = decode_options(model.talker, tokens_per_step, "fixed", 0.0, 0, mask="streaming")
        model.respond(audio=example.path, options=options)
        run = runs.record(model, list(model.stream(audio=example.path, options=options)), options, example.text)
        print(runs.save(run, FOLDER / f"{name}-{tokens_per_step}.zip"), run.result.text)


if __name__ == "__main__":
    main()
