"""Key names: the published checkpoints' on the left, ours on the right, in a strict table."""

from __future__ import annotations

import re
from collections.abc import Iterable

TALKER_PREFIX = "speech_generator."
ADAPTOR_PREFIX = "model.speech_projector."  # published name of the *downsample adaptor*

# Patterns of whole keys; None drops a key knowingly.
RELEASED_KEYS: tuple[tuple[str, str | None], ...] = (
    (r"speech_generator\..*rotary_emb\.inv_freq", None),  # recomputed from the config
    (r"speech_generator\.embedding\.(weight)", r"embedding.\1"),
    (r"speech_generator\.encode_layers\.(.+)", r"projector.stack.layers.\1"),
    (r"speech_generator\.decode_layers\.(.+)", r"decoder.layers.\1"),
    (r"speech_generator\.norm\.(weight)", r"head.main.norm.\1"),
    (r"speech_generator\.output_proj\.(weight|bias)", r"head.main.proj.\1"),
    (r"speech_generator\.mtp_layers\.(\d+)\.decoder_layer\.(.+)", r"head.depths.\1.layer.\2"),
    (r"speech_generator\.mtp_layers\.(\d+)\.norm_final\.(weight)", r"head.depths.\1.out.norm.\2"),
    (r"speech_generator\.mtp_layers\.(\d+)\.output_proj\.(weight|bias)", r"head.depths.\1.out.proj.\2"),
    (r"model\.speech_projector\.(linear[12]\.(?:weight|bias))", r"adaptor.\1"),
)


def our_key(key: str) -> str | None:
    """Returns our name of a published key, None for one that is dropped; an unknown key is returned unchanged."""
    for pattern, ours in RELEASED_KEYS:
        match = re.fullmatch(pattern, key)
        if match:
            return None if ours is None else match.expand(ours)
    return key


def check_keys(expected: Iterable[str], found: Iterable[str], where: str) -> None:
    """Compares key sets.

    Raises:
        ValueError: keys are missing or unexpected; the message names every one of them.
    """
    expected, found = set(expected), set(found)
    problems = [
        f"{what}: {', '.join(sorted(keys))}"
        for what, keys in (("missing", expected - found), ("unexpected", found - expected))
        if keys
    ]
    if problems:
        raise ValueError(f"{where} does not fit its config.json. {'; '.join(problems)}")
