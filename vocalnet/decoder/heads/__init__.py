"""The decoders of Table 3 behind one contract (`contract.py`); a new head is one file and one row here."""

from __future__ import annotations

from collections.abc import Callable

from vocalnet.config import TalkerConfig
from vocalnet.decoder.heads.contract import Head
from vocalnet.decoder.heads.mtp_vocalnet import MTPVocalNetHead
from vocalnet.decoder.heads.ntp import NTPHead

HEADS: dict[str, Callable[[TalkerConfig], Head]] = {
    "ntp": NTPHead,
    "mtp_vocalnet": MTPVocalNetHead,
}
