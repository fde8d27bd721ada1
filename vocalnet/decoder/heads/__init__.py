"""The decoders of Table 3 behind one contract (`contract.py`); a new head is one file and one row here."""

from __future__ import annotations

from vocalnet.decoder.heads.mtp_vocalnet import MTPVocalNetHead
from vocalnet.decoder.heads.ntp import NTPHead

HEADS = {
    "ntp": NTPHead,
    "mtp_vocalnet": MTPVocalNetHead,
}
