"""The decoders of Table 3 behind one contract (`contract.py`); a new head is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable

from vocalnet.config import TalkerConfig
from vocalnet.decoder.heads.contract import Head
from vocalnet.decoder.heads.group_linear import GroupLinearHead
from vocalnet.decoder.heads.group_trans import GroupTransHead
from vocalnet.decoder.heads.mtp_deepseek import MTPDeepSeekHead
from vocalnet.decoder.heads.mtp_parallel_linear import MTPParallelLinearHead
from vocalnet.decoder.heads.mtp_vocalnet import MTPVocalNetHead
from vocalnet.decoder.heads.ntp import NTPHead

HEADS: dict[str, Callable[[TalkerConfig], Head]] = {
    "ntp": NTPHead,
    "group_linear": GroupLinearHead,
    "group_trans": GroupTransHead,
    "mtp_parallel_linear": MTPParallelLinearHead,
    "mtp_deepseek": MTPDeepSeekHead,
    "mtp_vocalnet": MTPVocalNetHead,
}
