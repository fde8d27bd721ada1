"""CosyVoice 2's own vocoder, from a checkout that the user has put on the Python path, behind the methods of Token2Wav.

Only what a session calls is here. Nothing of the checkout is imported before it is asked for. The PyPI package of the
same name is an incomplete upload without these classes.

Letters: T tokens, N mel frames, S samples per mel frame.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vocalnet.vocoder.token_stream import OfficialWindows
from vocalnet.vocoder.weights import read_state

CONFIG = "cosyvoice2.yaml"
HOW_TO_INSTALL = (
    "Clone https://github.com/FunAudioLLM/CosyVoice with its submodules, install its requirements, and put the clone "
    'and its third_party/Matcha-TTS on PYTHONPATH; or use vocoder_backend="native", which needs none of it.'
)


class OfficialVocoder:
    """Drives a `CosyVoice2Model` without its LLM and without a voice prompt."""

    def __init__(self, model: Any, sample_rate_hz: int, spk_embed_dim: int, n_mels: int) -> None:
        """Wraps a loaded model; the sizes are its flow's."""
        self.model = model
        self.sample_rate_hz = sample_rate_hz
        self.voice = {
            "prompt_token": torch.zeros(1, 0, dtype=torch.int32),
            "prompt_feat": torch.zeros(1, 0, n_mels),
            "embedding": torch.zeros(1, spk_embed_dim),
        }

    @torch.inference_mode()
    def flow(self, tokens: Tensor | Iterable[int]) -> Tensor:
        """Returns the mel (1, n_mels, N) of all tokens of an utterance."""
        row = _row(tokens).to(self.model.device)
        voice = {name: value.to(self.model.device) for name, value in self.voice.items()}
        inputs = {"token": row, **voice}
        lengths = {
            f"{name}_len": torch.tensor([inputs[name].shape[1]], dtype=torch.int32, device=row.device)
            for name in ("token", "prompt_token", "prompt_feat")
        }
        mel = _call(self.model.flow.inference, {**inputs, **lengths, "streaming": False, "finalize": True})
        return mel[0] if isinstance(mel, tuple) else mel  # newer checkouts return their caches too

    @torch.inference_mode()
    def vocode(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the waveform (1, S * N) of a mel (1, n_mels, N), and its source (1, 1, S * N)."""
        return self.model.hift.inference(speech_feat=mel, cache_source=torch.zeros(1, 1, 0, device=mel.device))

    def token_stream(self) -> OfficialStream:
        """Starts an utterance whose tokens arrive in pieces."""
        return OfficialStream(self)


class OfficialStream:
    """One utterance from tokens to waveform, at the hops of the checkout's own streaming."""

    def __init__(self, vocoder: OfficialVocoder) -> None:
        self.vocoder = vocoder
        self.windows = OfficialWindows(vocoder.model.token_hop_len, n_prompt=0)
        self.tokens = _row([])  # (1, T)
        self.name = str(uuid.uuid4())  # the checkout keeps the state of its utterances by name

    @torch.inference_mode()
    def push(self, tokens: Tensor | Iterable[int], last: bool = False) -> Iterator[tuple[None, Tensor]]:
        """Yields (None, samples (1, m)) that the new tokens make possible; `last` flushes the rest."""
        vocoder = self.vocoder
        kept = vocoder.model.hift_cache_dict
        kept.setdefault(self.name, None)
        self.tokens = torch.cat([self.tokens, _row(tokens)], dim=1)
        for window in self.windows.due(self.tokens.shape[1], last):
            arguments = {
                "token": self.tokens[:, : window.n_seen],
                **vocoder.voice,
                "token_offset": window.offset,
                "uuid": self.name,
                "stream": not window.is_final,
                "finalize": window.is_final,
            }
            yield None, _call(vocoder.model.token2wav, arguments)
        if last:
            del kept[self.name]


def load_official(folder: str | Path) -> OfficialVocoder:
    """Loads flow and HiFT of a CosyVoice 2 folder (cosyvoice2.yaml, flow.pt, hift.pt) into the checkout's classes.

    The checkout chooses the device.

    Raises:
        ValueError: the checkout is not on the path or is incomplete, or a file is missing or does not fit.
    """
    folder = Path(folder)
    if not (folder / CONFIG).is_file():
        raise ValueError(f"{folder} has no {CONFIG}. Give the folder of CosyVoice2-0.5B, with all of its files.")
    states = {name: read_state(folder, name) for name in ("flow", "hift")}
    try:
        from cosyvoice.cli.model import CosyVoice2Model
        from hyperpyyaml import load_hyperpyyaml

        with (folder / CONFIG).open() as file:
            parts = load_hyperpyyaml(file, overrides={"llm": None})  # VocalNet brings its own
    except ImportError as error:
        raise ValueError(f"{_reason(error)} {HOW_TO_INSTALL}") from error
    model = CosyVoice2Model(nn.Identity(), parts["flow"], parts["hift"])
    for name, state in states.items():
        part = getattr(model, name)
        try:
            part.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{name} of {folder} does not fit its {CONFIG}: {error}") from error
        part.to(model.device).eval()
    embed_dim = model.flow.spk_embed_affine_layer.in_features
    return OfficialVocoder(model, int(parts["sample_rate"]), embed_dim, model.flow.output_size)


def _reason(error: ImportError) -> str:
    """Says what is wrong with the packages."""
    if error.name == "cosyvoice":
        return "There is no CosyVoice checkout on the Python path."
    if (error.name or "cosyvoice").split(".")[0] == "cosyvoice":
        return f"The package cosyvoice on the Python path is incomplete ({error}); the one from PyPI is."
    return f"CosyVoice needs the package {error.name}."


def _call(function: Any, arguments: dict[str, Any]) -> Any:
    """Calls a function of the checkout with those arguments that its version knows ("stream" came later)."""
    known = inspect.signature(function).parameters
    return function(**{name: value for name, value in arguments.items() if name in known})


def _row(tokens: Tensor | Iterable[int]) -> Tensor:
    row = tokens if isinstance(tokens, Tensor) else list(tokens)
    return torch.as_tensor(row, dtype=torch.int32).reshape(1, -1)  # (1, T)
