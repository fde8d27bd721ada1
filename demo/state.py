"""What every tab of one server shares: the loaded model and what loading it cost."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import vocalnet
from demo.examples import EXAMPLES
from demo.recorded import recorded_runs
from demo.visits import Visits
from vocalnet.evaluation import Judges
from vocalnet.events import Event

log = logging.getLogger(__name__)


@dataclass
class App:
    """One model, ready to answer.

    Attributes:
        name: what the user asked for: "nano", a folder or a hub id.
        model: the loaded model; `model.decoders[0]` is the decoder it was loaded with, none where it only writes.
        load_s: seconds from the call of load to a model in memory.
        warmup_s: seconds of the first answer, which also pays for allocations and kernel selection.
        first_answer: its events.
        judges: who hears and scores the answers of a lab.
        visits: what each visitor has made so far.
        stops: for each kind of job, how often each visitor has ended one.
    """

    name: str
    model: Any
    load_s: float
    warmup_s: float = 0.0
    first_answer: tuple[Event, ...] = field(default=(), repr=False)
    judges: Judges = field(default_factory=Judges, repr=False)
    visits: Visits = field(default_factory=Visits, repr=False)
    stops: list[Counter[str | None]] = field(default_factory=list, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @classmethod
    def load(cls, name: str, device: str | None = None, dtype: str | None = None) -> App:
        """Loads a model and lets it answer once, so that no visitor pays for the first answer.

        Raises:
            ValueError: there is no such model, or it lacks files; the message says how to get them.
        """
        start = time.perf_counter()
        model = vocalnet.load(name, device=device, dtype=dtype)
        load_s = time.perf_counter() - start
        app = cls(name=name, model=model, load_s=load_s, visits=Visits(recorded_runs()))
        app.warm_up()
        log.info("%s on %s: loaded in %.1f s, warmed up in %.1f s", name, model.device, app.load_s, app.warmup_s)
        return app

    def warm_up(self) -> None:
        """Answers one example clip, as a stream where the model speaks, and keeps the events and the seconds."""
        start = time.perf_counter()
        options = self.model.talker.default_options("streaming") if self.has_speech else None
        answer = self.model.stream(audio=str(EXAMPLES[0].path), speech=self.has_speech, options=options)
        self.first_answer = tuple(answer)
        self.warmup_s = time.perf_counter() - start

    @property
    def has_speech(self) -> bool:
        """Whether the model can speak; a checkpoint of the first training stage only writes."""
        return bool(self.model.decoders)

    def model_for(self, decoder: str) -> Any:
        """Returns the model with this decoder, which is read when it is first asked for; the rest is shared."""
        with self._lock:
            return self.model.with_decoder(decoder)

    def new_stops(self) -> Counter[str | None]:
        """Returns a count of ended jobs by visitor, for one kind of job."""
        self.stops.append(Counter())
        return self.stops[-1]

    def forget(self, visitor: str | None) -> None:
        """Lets go of all that a visit made; its jobs end at their next view."""
        self.visits.forget(visitor)
        for stops in self.stops:
            stops.pop(visitor, None)

    def health(self) -> dict[str, Any]:
        """Returns the JSON of GET /health; times in seconds."""
        return {
            "status": "ok",
            "model": self.name,
            "device": str(self.model.device),
            "load_s": round(self.load_s, 3),
            "warmup_s": round(self.warmup_s, 3),
        }
