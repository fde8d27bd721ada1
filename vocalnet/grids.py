"""The named grids of `vocalnet eval --grid`: which decoders, at how many tokens per step, under which policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from vocalnet.decoder.options import DecodeOptions
from vocalnet.vocoder.options import VocoderOptions

COMMON_BUDGET = "mtp_vocalnet_4"  # the MTP-VocalNet that had the other decoders' budget; the default had a longer one
OWN = "mtp_vocalnet"
# the options that a policy is tuned by, the first in its name
PARAMETERS = {"typical": ("alpha", "eps"), "top_n": ("top_n",), "confidence": ("tau",)}
EPS = 0.3  # of `typical`: high, since it caps a threshold that at the entropy of speech tokens alpha should set


@dataclass(frozen=True, slots=True)
class Cell:
    """One way of speaking: a decoder of the checkpoint and how it decodes, in one piece or as a stream."""

    decoder: str
    options: DecodeOptions
    sound: VocoderOptions | None = None  # of a streaming vocoder; None: the sound is made in one piece

    @property
    def policy(self) -> str:
        """Its policy with what it is tuned by, such as "top_n=2"."""
        options, tuned = self.options, PARAMETERS.get(self.options.policy)
        if tuned is None:
            return options.policy
        first, *others = tuned
        name = f"{options.policy}={getattr(options, first):g}"
        return " ".join([name, *(f"{other}={getattr(options, other):g}" for other in others)])

    @property
    def label(self) -> str:
        """A short name that is unique in its grid, such as "mtp_vocalnet 5 top_n=2"."""
        label = f"{self.decoder} {self.options.tokens_per_step}"
        label += "" if self.policy == "fixed" else f" {self.policy}"
        label += f" T={self.options.temperature:g}" if self.options.temperature else ""
        return label + (" streaming" if self.options.mask == "streaming" else "") + self._sounds()

    def _sounds(self) -> str:
        if self.sound is None:
            return ""
        named = {"NFE": self.sound.n_steps, "chunk": self.sound.chunk}
        return " streamed" + "".join(f" {name} {value}" for name, value in named.items() if value is not None)

    @property
    def is_single(self) -> bool:
        """Whether it says one token per step."""
        return self.options.tokens_per_step == 1

    @property
    def offline(self) -> Cell:
        """The same decoder under the full mask, its sound made in one piece."""
        return Cell(self.decoder, replace(self.options, mask="full"))

    @property
    def whole(self) -> Cell:
        """The same speech tokens, their sound made in one piece."""
        return replace(self, sound=None)

    @property
    def fixed_3(self) -> Cell:
        """The same decoder, and temperature, as the paper ships it: three tokens per step, all kept."""
        return _cell(self.decoder, 3, temperature=self.options.temperature)


def table3(decoders: Sequence[str]) -> list[Cell]:
    """Returns the 14 cells of the paper's Table 3; `decoders` are those that the checkpoint offers."""
    vocalnet = COMMON_BUDGET if COMMON_BUDGET in decoders else OWN
    cells = [_cell("ntp", 1)]
    cells += [_cell(f"{head}_{size}", size) for head in ("group_linear", "group_trans") for size in (3, 5)]
    return cells + [_cell(head, K) for head in ("mtp_parallel_linear", "mtp_deepseek", vocalnet) for K in (1, 3, 5)]


def table4(decoders: Sequence[str]) -> list[Cell]:
    """Returns MTP-VocalNet with M = 2, 4 and 6 modules at 1 to 1 + M tokens per step, after the paper's Table 4.

    `ntp`, which is not in that table, is the common baseline of all grids.
    """
    steps = {2: (1, 3), 4: (1, 3, 5), 6: (1, 3, 5, 7)}
    return [_cell("ntp", 1)] + [_cell(f"mtp_vocalnet_{M}", K) for M, numbers in steps.items() for K in numbers]


def seeds(decoders: Sequence[str]) -> list[Cell]:
    """Returns what two seeds of one training differ by: the yardstick for differences between decoders."""
    cells = [_cell(name, 1) for name in ("ntp", "ntp_seed2")]
    return cells + [_cell(name, K) for name in (COMMON_BUDGET, f"{COMMON_BUDGET}_seed2") for K in (1, 3, 5)]


def policies(decoders: Sequence[str]) -> list[Cell]:
    """Returns one decoder under every policy, from strict to tolerant, and `ntp` to compare speeds with.

    `rejection` is for sampling, so it is at a temperature, beside one token per step and fixed 3 at the same.
    """
    tuned: dict[str, Sequence[float]] = {
        "top_n": (2, 5, 20),
        "typical": (3.0, 1.0, 0.3),
        "confidence": (0.9, 0.7, 0.5, 0.3, 0.2, 0.1),
    }
    cells = [_cell("ntp", 1), *(_cell(OWN, K) for K in range(1, 6))]
    cells += [_cell(OWN, K, policy="greedy_verify") for K in (3, 5)]
    for policy, values in tuned.items():
        cells += [_cell(OWN, 5, policy=policy, eps=EPS, **{PARAMETERS[policy][0]: value}) for value in values]
    cells += [_cell(OWN, K, temperature=1.0) for K in (1, 3)]
    return cells + [_cell(OWN, K, policy="rejection", temperature=1.0) for K in (3, 5)]


def streaming(decoders: Sequence[str]) -> list[Cell]:
    """Returns what streaming costs at three tokens per step: the talker's mask alone, the vocoder's stream too."""
    masked = _cell(OWN, 3, mask="streaming")
    return [_cell("ntp", 1), _cell(OWN, 3), masked, replace(masked, sound=VocoderOptions())]


def vocoder(decoders: Sequence[str]) -> list[Cell]:
    """Returns the same speech tokens at several numbers of flow steps (NFE) and chunks of the vocoder's stream."""
    masked = _cell(OWN, 3, mask="streaming")
    plans = [(n, None) for n in (10, 6, 4, 2, 1)] + [(n, chunk) for n in (10, 4) for chunk in (5, 15, 25)]
    return [_cell("ntp", 1), masked, *(replace(masked, sound=VocoderOptions(n, chunk=chunk)) for n, chunk in plans)]


GRIDS: dict[str, Callable[[Sequence[str]], list[Cell]]] = {
    "table3": table3,
    "table4": table4,
    "seeds": seeds,
    "policies": policies,
    "streaming": streaming,
    "vocoder": vocoder,
}


def find_grid(name: str, decoders: Sequence[str]) -> list[Cell]:
    """Returns the cells of a named grid, those included that the checkpoint cannot run.

    Raises:
        ValueError: there is no such grid.
    """
    if name not in GRIDS:
        raise ValueError(f"There is no grid {name!r}. Available: {', '.join(GRIDS)}")
    return GRIDS[name](decoders)


def _cell(decoder: str, tokens_per_step: int, **options: Any) -> Cell:
    return Cell(decoder, DecodeOptions(tokens_per_step=tokens_per_step, **options))
