"""A streamed answer as a listener has it: when each chunk comes, when it sounds, and where there is silence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from vocalnet.events import AudioChunk, Event


@dataclass(frozen=True, slots=True)
class Playback:
    """An answer played while it comes; seconds since the call, one entry per chunk of sound.

    Attributes:
        arrivals_s: when each chunk is there.
        starts_s: when it begins to sound.
        durations_s: how long it sounds.
    """

    arrivals_s: tuple[float, ...]
    starts_s: tuple[float, ...]
    durations_s: tuple[float, ...]

    @property
    def lateness_s(self) -> list[float]:
        """By how much each chunk comes after its playing time, had playing never waited; below 0: so much before it.

        A late chunk does not excuse those after it. The first is on time by definition.
        """
        due_s = itertools.accumulate(self.durations_s[:-1], initial=self.arrivals_s[0]) if self.arrivals_s else ()
        return [there - due for there, due in zip(self.arrivals_s, due_s, strict=True)]

    @property
    def gaps_s(self) -> list[float]:
        """Silence before each chunk but the first."""
        ends = [start + length for start, length in zip(self.starts_s, self.durations_s, strict=True)]
        return [start - end for start, end in zip(self.starts_s[1:], ends, strict=False)]

    @property
    def n_underruns(self) -> int:
        """How often the listener waits for a chunk that should sound."""
        return sum(gap > 1e-9 for gap in self.gaps_s)

    @property
    def slack_s(self) -> float | None:
        """The least time that a chunk after the first waits to sound, 0 with underruns; None: there is one chunk."""
        spare = [start - there for start, there in zip(self.starts_s[1:], self.arrivals_s[1:], strict=True)]
        return min(spare, default=None)

    def produced(self) -> list[tuple[float, float]]:
        """Returns (time, seconds of sound that are there), a point before and after each arrival."""
        points, there_s = [], 0.0
        for arrival, length in zip(self.arrivals_s, self.durations_s, strict=True):
            points += [(arrival, there_s), (arrival, there_s + length)]
            there_s += length
        return points

    def played(self) -> list[tuple[float, float]]:
        """Returns (time, seconds of sound that have been heard), a point at both ends of each chunk."""
        points, heard_s = [], 0.0
        for start, length in zip(self.starts_s, self.durations_s, strict=True):
            points += [(start, heard_s), (start + length, heard_s + length)]
            heard_s += length
        return points


def playback(events: Sequence[Event], lead_s: float = 0.0) -> Playback:
    """Returns how an answer plays: from its first chunk on, and each further one as soon as it can.

    Args:
        events: of the answer.
        lead_s: how long a player holds the first chunk back, and any chunk that comes too late.
    """
    chunks = [event for event in events if isinstance(event, AudioChunk) and len(event.samples)]
    lengths = [len(chunk.samples) / chunk.sample_rate_hz for chunk in chunks]
    starts: list[float] = []
    for chunk, before in zip(chunks, [0.0, *lengths], strict=False):
        end = starts[-1] + before if starts else None
        is_in_time = end is not None and chunk.t_s <= end
        starts.append(end if is_in_time and end is not None else chunk.t_s + lead_s)
    return Playback(tuple(chunk.t_s for chunk in chunks), tuple(starts), tuple(lengths))
