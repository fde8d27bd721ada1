"""Key names: the published checkpoints' on the left, ours on the right, in strict tables.

Templates of whole keys: {i} stands for a number, {rest} for anything, {any} for anything or nothing. None drops a key
knowingly. A table is read from its top, in both directions: where several published names are one of ours, the first
row is the one that errors name.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from torch import Tensor

Table = tuple[tuple[str, str | None], ...]

TALKER_PREFIX = "speech_generator."
ADAPTOR_PREFIX = "model.speech_projector."  # published name of the *downsample adaptor*

RELEASED_KEYS: Table = (
    ("speech_generator.{any}rotary_emb.inv_freq", None),  # recomputed from the config
    ("speech_generator.embedding.weight", "embedding.weight"),
    ("speech_generator.encode_layers.{rest}", "projector.stack.layers.{rest}"),
    ("speech_generator.decode_layers.{rest}", "decoder.layers.{rest}"),
    ("speech_generator.norm.weight", "head.main.norm.weight"),
    ("speech_generator.output_proj.{rest}", "head.main.proj.{rest}"),
    ("speech_generator.mtp_layers.{i}.decoder_layer.{rest}", "head.depths.{i}.layer.{rest}"),
    ("speech_generator.mtp_layers.{i}.norm_final.weight", "head.depths.{i}.out.norm.weight"),
    ("speech_generator.mtp_layers.{i}.output_proj.{rest}", "head.depths.{i}.out.proj.{rest}"),
    ("model.speech_projector.linear{i}.{rest}", "adaptor.linear{i}.{rest}"),
)
FIELDS = {"i": r"\d+", "rest": ".+", "any": ".*"}


def our_key(key: str, table: Table = RELEASED_KEYS) -> str | None:
    """Returns our name of a published key, None for one that is dropped; an unknown key is returned unchanged."""
    for theirs, ours in table:
        match = _pattern(theirs).fullmatch(key)
        if match:
            return None if ours is None else ours.format(**match.groupdict())
    return key


def their_key(key: str, table: Table = RELEASED_KEYS) -> str:
    """Returns the published name of a key of ours; an unknown key is returned unchanged."""
    for theirs, ours in table:
        match = None if ours is None else _pattern(ours).fullmatch(key)
        if match:
            return theirs.format(**match.groupdict())
    return key


def check_keys(expected: Iterable[str], found: Iterable[str], where: str, table: Table = ()) -> None:
    """Compares key sets, both under our names.

    Raises:
        ValueError: keys are missing or unexpected; the message names every one of them as the table's files do.
    """
    expected, found = set(expected), set(found)
    problems = [
        f"{what}: {', '.join(sorted(their_key(key, table) for key in keys))}"
        for what, keys in (("missing", expected - found), ("unexpected", found - expected))
        if keys
    ]
    if problems:
        raise ValueError(f"{where} does not fit its config.json. {'; '.join(problems)}")


def check_weights(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str, table: Table = ()) -> None:
    """Compares keys and shapes of weights, both under our names.

    Raises:
        ValueError: keys are missing or unexpected, or a weight has another shape; the message names every one of them.
    """
    check_keys(expected, found, where, table)
    wrong = [
        f"{their_key(key, table)} is {tuple(found[key].shape)} instead of {tuple(weight.shape)}"
        for key, weight in expected.items()
        if found[key].shape != weight.shape
    ]
    if wrong:
        raise ValueError(f"{where} does not fit its config.json. {'; '.join(wrong)}")


@functools.cache
def _pattern(template: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", lambda field: f"(?P<{field[1]}>{FIELDS[field[1]]})", re.escape(template)))
