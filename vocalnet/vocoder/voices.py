"""The voices that a vocoder can be prompted with: recordings in its folder, or any other recording.

A folder of CosyVoice 2 supports them if it holds campplus.onnx and speech_tokenizer_v2.onnx beside flow and hift. Its
own voices are the recordings `voices/NAME.wav` (or another format of `load_audio`); no transcript is needed.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

from vocalnet.audio import SAMPLE_RATE_HZ, load_audio
from vocalnet.vocoder.prompt import VoicePrompt, make_prompt, open_session

SPEAKER, TOKENIZER = "campplus.onnx", "speech_tokenizer_v2.onnx"
MAX_VOICE_S = 30.0
MAX_KEPT = 8  # prompts that are kept ready


class Voices:
    """Prompts by name; each is made when it is first asked for. Without the two networks there are none."""

    def __init__(self, folder: Path | None = None) -> None:
        has_networks = folder is not None and all((folder / name).is_file() for name in (SPEAKER, TOKENIZER))
        self.folder = folder if has_networks else None
        own = self.folder / "voices" if self.folder else None
        self.files = {path.stem: path for path in sorted(own.iterdir())} if own and own.is_dir() else {}
        self.prompt = functools.lru_cache(maxsize=MAX_KEPT)(self._prompt)

    def _prompt(self, voice: str) -> VoicePrompt:
        """Returns the prompt of a voice: the name of one of `files`, or the path of a recording.

        Raises:
            ValueError: this vocoder takes no voices, there is no such voice, or the recording cannot be used.
        """
        if self.folder is None:
            raise ValueError(
                "This model speaks with one voice. Leave voice=None, or load a vocoder whose folder holds "
                f"{SPEAKER} and {TOKENIZER}, as CosyVoice2-0.5B's does."
            )
        path = self.files.get(voice, Path(voice))
        if not path.is_file():
            own = f"Its own voices: {', '.join(self.files) or 'none'}."
            raise ValueError(f"There is no voice {voice!r}. {own} Or give the path of a recording of a few seconds.")
        samples = torch.from_numpy(load_audio(path, MAX_VOICE_S))[None]  # (1, n)
        tokenizer, speaker = (open_session(self.folder / name) for name in (TOKENIZER, SPEAKER))
        return make_prompt(samples, SAMPLE_RATE_HZ, tokenizer, speaker)
