"""Which lanes a decoding has, and which of them each depth writes to.

A depth is 0 for the decoder, k for MTP module k. All depths run the same rows and share one lane; in the published code
they do not (behaviour `released`), and each has its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from vocalnet.config import TalkerConfig
from vocalnet.decoder.backbone import Rows
from vocalnet.decoder.cache import KVCache, Lane


def make_lane(config: TalkerConfig, n_layers: int, batch: int, capacity: int, like: Tensor) -> Lane:
    """Returns an empty lane for `n_layers`; dtype and device come from `like`."""
    shape = (n_layers, batch, config.n_heads, config.dim // config.n_heads)
    return Lane(KVCache(shape, capacity, like), batch, like.device)


def make_lanes(config: TalkerConfig, n_depths: int, batch: int, capacity: int, like: Tensor) -> list[Lane]:
    """Returns the empty lanes of a decoder and `n_depths` modules."""
    is_released = config.behaviour == "released"
    layers = [config.n_layers] + [1] * n_depths if is_released else [config.n_layers + n_depths]
    return [make_lane(config, n, batch, capacity, like) for n in layers]


def rows_by_depth(config: TalkerConfig, lanes: list[Lane], make: Callable[[Lane], Rows]) -> Callable[[int], Rows]:
    """Returns rows by depth; depths that share a lane share its rows."""
    is_released = config.behaviour == "released"
    made: dict[int, Rows] = {}

    def rows(depth: int) -> Rows:
        lane = depth if is_released else 0
        if lane not in made:
            made[lane] = make(lanes[lane])
        is_shared = depth > 0 and not is_released
        return replace(made[lane], first_layer=config.n_layers + depth - 1) if is_shared else made[lane]

    return rows
