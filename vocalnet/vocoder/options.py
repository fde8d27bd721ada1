"""How speech tokens become sound: `VocoderOptions`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vocalnet.vocoder.token_stream import STYLES
from vocalnet.vocoder.wave_stream import FADES


@dataclass(frozen=True, slots=True)
class VocoderOptions:
    """How a vocoder speaks; None keeps the checkpoint's own.

    Attributes:
        n_steps: Euler steps of the flow: evaluations of its network (NFE) per mel frame, twice as many with guidance.
        cfg_rate: strength of classifier-free guidance; 0 halves the work.
        chunk: of a stream: tokens that go through the flow together. The first sound needs three more, so a smaller
            chunk answers sooner, and sees less of what follows.
        style: of a stream, a row of `token_stream.STYLES`.
        fade: of a stream, how pieces are cross-faded, a row of `wave_stream.FADES`.
    """

    n_steps: int | None = None
    cfg_rate: float | None = None
    chunk: int | None = None
    style: str = "exact"
    fade: str | None = None

    def __post_init__(self) -> None:
        for name in ("n_steps", "chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} of the vocoder must be at least 1, or None")
        if self.cfg_rate is not None and self.cfg_rate < 0:
            raise ValueError("cfg_rate must be 0 (no guidance) or positive, or None")
        for name, value, rows in (("style", self.style, STYLES), ("fade", self.fade, FADES)):
            if value is not None and value not in rows:
                raise ValueError(f"{name} of the vocoder is {value!r}; choose one of: {', '.join(rows)}")

    def of_flow(self) -> dict[str, Any]:
        """Returns the arguments of `Token2Wav.flow`, for a whole utterance."""
        return {"n_steps": self.n_steps, "cfg_rate": self.cfg_rate}

    def of_stream(self) -> dict[str, Any]:
        """Returns the arguments of `Token2Wav.token_stream`."""
        return asdict(self)
