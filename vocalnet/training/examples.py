"""Training samples of a list in the released format: clip, prompt, answer, speech tokens; and the order they come in.

A sample is asked for by (epoch, index), since its mask is drawn anew in every epoch; nothing else is random here.

Letters: n_mels mel bands, T_a frames of a window, L_s speech tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from vocalnet.config import EncoderConfig, TalkerConfig
from vocalnet.data.streams import file_samples, file_size, file_units
from vocalnet.data.units import check_range
from vocalnet.llm import Message, prompt_pieces
from vocalnet.model import VocalNet, encoder_inputs
from vocalnet.tokens import PLACEHOLDER, Family
from vocalnet.training.draws import generator, mask_name
from vocalnet.training.loop import batch_order
from vocalnet.training.settings import Settings
from vocalnet.training.stage_talker import corrupted

ROLES = {"human": "user", "gpt": "assistant"}
Batch = dict[str, list[Any]]


class Examples(Dataset[dict[str, Any]]):
    """The samples of lists."""

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        model: VocalNet,
        settings: Settings,
    ) -> None:
        """Takes what is needed of the model: tokenizer, prompts and sizes; none of its weights.

        Args:
            entries: of lists in the released format, their files as whole Paths, or as Members of packs.
            model: of the stage.
            settings: of the run.

        Raises:
            ValueError: an entry has no answer, or not exactly one place for its audio.
        """
        self.entries, self.settings = entries, settings
        self.tokenizer: PreTrainedTokenizerBase = model.tokenizer
        self.family: Family = model.family
        self.encoder: EncoderConfig = model.parts.encoder
        self.talker: TalkerConfig | None = None if model.talker is None else model.talker.config
        for entry in entries:
            _check(entry, is_spoken=settings.stage == 2)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        """Returns the sample at (epoch, index).

        {"id", "windows": (mel (n_mels, T_a), number of its encoder states) of each window of the clip, "prompt": token
        ids of the pieces around the audio, "answer": token ids}, for stage 2 also what `_speech` returns.

        Raises:
            ValueError: a file cannot be used.
        """
        epoch, index = place
        entry = self.entries[index]
        name = str(entry["id"])
        *before, last = entry["conversations"]
        messages = [Message(ROLES[turn["from"]], turn["value"]) for turn in before]
        sample = {
            "id": name,
            "windows": encoder_inputs(file_samples(entry["speech"]), self.encoder),
            "prompt": prompt_pieces(self.tokenizer, self.family, messages),
            "answer": self.tokenizer.encode(last["value"], add_special_tokens=False),
        }
        return sample | (self._speech(entry, name, epoch) if self.settings.stage == 2 else {})

    def _speech(self, entry: dict[str, Any], name: str, epoch: int) -> dict[str, Any]:
        """Returns {"units": speech tokens (L_s,), "inputs": what enters in their place (L_s,), "mask": of MASKS}."""
        assert self.talker is not None
        settings = self.settings
        spoken = file_units(entry["units"])
        check_range(spoken, self.talker.n_units, entry["units"])
        units = torch.from_numpy(spoken)  # (L_s,)
        if settings.dedup:
            units = torch.unique_consecutive(units)
        draws = generator(settings.seed, epoch, name, "corrupt")
        inputs = corrupted(units, settings.corrupt, self.talker.n_units, draws) if settings.corrupt else units
        mask = mask_name(settings.seed, epoch, name, settings.streaming_share)
        return {"units": units, "inputs": inputs, "mask": mask}

    def sizes(self) -> list[int]:
        """Returns a size of every sample's clip, for batches of similar ones; only its file is looked at.

        Raises:
            ValueError: a clip is missing.
        """
        try:
            return [file_size(entry["speech"]) for entry in self.entries]
        except OSError as error:
            raise ValueError(
                f"Cannot read the clip {error.filename}: {error.strerror}. Run: vocalnet data validate"
            ) from error


def _check(entry: dict[str, Any], is_spoken: bool) -> None:
    """Raises ValueError if an entry cannot be trained on; `vocalnet data validate` finds more, and all at once."""
    turns = entry["conversations"]
    problem = None
    if is_spoken and "units" not in entry:
        problem = 'stage 2 needs its speech tokens ("units")'
    elif len(turns) < 2 or turns[-1]["from"] != "gpt" or not {turn["from"] for turn in turns} <= set(ROLES):
        problem = 'it must hold turns of "human" and "gpt", the last one of "gpt"'
    elif sum(turn["value"].count(PLACEHOLDER) for turn in turns) != 1 or not turns[-1]["value"].strip():
        problem = f"it must have exactly one {PLACEHOLDER}, and an answer"
    if problem:
        raise ValueError(f"The entry {entry['id']!r} cannot be trained on: {problem}. Run: vocalnet data validate")


def collate(samples: Sequence[dict[str, Any]]) -> Batch:
    """Returns a batch of B samples: under each of their keys a list of B values; nothing is padded here."""
    return {key: [sample[key] for sample in samples] for key in samples[0]}


class Order(Sampler[tuple[int, int]]):
    """Yields (epoch, index) of whole global batches of similar samples, shuffled by (seed, epoch) alone."""

    def __init__(self, n: int, batch_size: int, seed: int, sizes: Sequence[int]) -> None:
        """Takes the number of samples and how many one optimiser step sees on all devices together.

        Raises:
            ValueError: there are fewer samples than that.
        """
        if n < batch_size:
            raise ValueError(f"{n} samples do not fill one batch of {batch_size}. Choose a smaller batch_size.")
        self.epoch = 0
        self._n_batches = n // batch_size
        self._batch_size = batch_size
        self._batch = batch_order(n, batch_size, seed, sizes)

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch that the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self._n_batches * self._batch_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for step in range(self._n_batches):
            for index in self._batch(epoch * self._n_batches + step):
                yield epoch, int(index)
