"""Speech tokens to waveform: the flow, the HiFT vocoder and their streaming, as one object without state.

Letters: T tokens, P prompt tokens, N = ratio * (P + T) mel frames, D encoder width, S samples per mel frame.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vocalnet.config import FlowConfig, HiftConfig, from_dict
from vocalnet.decoder.kernels import use_kernel
from vocalnet.vocoder.conformer import LOOKAHEAD
from vocalnet.vocoder.flow import Flow, schedule
from vocalnet.vocoder.hift import Hift
from vocalnet.vocoder.memory import SpareMemory
from vocalnet.vocoder.prompt import VoicePrompt
from vocalnet.vocoder.token_stream import TokenStream
from vocalnet.vocoder.voices import Voices
from vocalnet.vocoder.wave_stream import WaveStream
from vocalnet.vocoder.weights import load_weights, read_state

if TYPE_CHECKING:
    from os import PathLike

MAX_FRAMES = 15_000  # 300 s at 50 frames a second: the size of the initial noise
LOOKAHEADS = ("context", "cut")

TokenIds = Tensor | Iterable[int]


@functools.lru_cache(maxsize=1)
def initial_noise(n_mels: int) -> Tensor:
    """Returns the starting point of every utterance, (1, n_mels, 15000): the first draw after seeding with 0."""
    return torch.randn(1, n_mels, MAX_FRAMES, generator=torch.Generator().manual_seed(0))


def usable_chunk(chunk: int | None) -> int | None:
    """Returns the tokens per attention chunk; None: everything is visible, which 0 says as well.

    Raises:
        ValueError: it is negative.
    """
    if chunk is not None and chunk < 0:
        raise ValueError(f"chunk is {chunk}; give a number of tokens from 1, or None (or 0) for full attention.")
    return chunk or None


class Token2Wav(nn.Module):
    """CosyVoice 2's token-to-wave, in any size, in float32. Every method takes one utterance (batch 1)."""

    def __init__(self, flow: FlowConfig, hift: HiftConfig) -> None:
        super().__init__()
        self.spare = SpareMemory()  # of finished streams
        self.flow_config = flow
        self.hift_config = hift
        self.flow_model = Flow(flow)
        self.hift = Hift(hift)
        self.voices = Voices()  # `load_token2wav` looks for them

    @property
    def sample_rate_hz(self) -> int:
        """Rate of the waveform in Hz."""
        return self.hift_config.sample_rate_hz

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hift.window.device

    def use_kernel(self, kernel: str) -> None:
        """Prepares flow and HiFT for inference, in place; see `decoder.kernels`. What has weight norm stays."""
        use_kernel(self.flow_model, kernel)
        use_kernel(self.hift, kernel)

    @torch.no_grad()
    def flow(
        self,
        tokens: TokenIds,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        embedding: Tensor | None = None,
        finalize: bool = True,
        chunk: int | None = None,
        lookahead: str = "context",
        noise: Tensor | None = None,
        n_steps: int | None = None,
        cfg_rate: float | None = None,
    ) -> Tensor:
        """Returns the mel of the tokens, (1, n_mels, N - ratio * P).

        Args:
            tokens: (1, T).
            prompt_tokens, prompt_mel, embedding: the voice, (1, P), (1, ratio * P, n_mels) and (1, spk_embed_dim);
                None: no prompt and no speaker.
            finalize: False: more tokens will follow; the last three are only looked at, and give no frames.
            chunk: tokens per attention chunk (twice as many mel frames at ratio 2); None or 0: full attention.
            lookahead: what `finalize=False` means: "context", the last three tokens enter the look-ahead only
                (official), or "cut", they are encoded like all others and their frames are cut off later (VocalNet).
            noise: (1, n_mels, >= N); column n belongs to frame n, the prompt's first; None: `initial_noise` times the
                config's temperature.
            n_steps: Euler steps; None: the config's.
            cfg_rate: classifier-free guidance; 0 halves the work; None: the config's.

        Raises:
            ValueError: unusable tokens or prompt, or more than 15000 frames.
        """
        chunk = usable_chunk(chunk)
        prompt = self.voice(prompt_tokens, prompt_mel, embedding)
        _, mu = self.encode(tokens, prompt.tokens, finalize=finalize, chunk=chunk, lookahead=lookahead)
        _, N, _ = mu.shape
        mel = self.flow_model.sample(
            self.noise_frames(noise, 0, N),
            mu.transpose(1, 2),
            self.speaker(prompt.embedding),
            prompt.frames(0, N),
            chunk,
            n_steps,
            cfg_rate,
        )
        return mel[..., prompt.mel.shape[1] :]

    @torch.no_grad()
    def encode(
        self,
        tokens: TokenIds,
        prompt_tokens: Tensor | None = None,
        prompt_mel: Tensor | None = None,
        embedding: Tensor | None = None,
        finalize: bool = True,
        chunk: int | None = None,
        lookahead: str = "context",
    ) -> tuple[Tensor, Tensor]:
        """Returns the encoder output (1, N, D) and mu (1, N, n_mels) of prompt and tokens.

        The arguments are those of `flow`; the prompt's mel and the speaker do not enter the encoder.
        """
        chunk = usable_chunk(chunk)
        if lookahead not in LOOKAHEADS:
            raise ValueError(f"Unknown look-ahead {lookahead!r}. Choose one of: {', '.join(LOOKAHEADS)}.")
        speech = self.token_row(tokens)  # (1, T)
        if finalize and speech.shape[1] == 0:
            raise ValueError("There are no speech tokens to turn into a waveform. Pass at least one.")
        if not finalize and speech.shape[1] <= LOOKAHEAD:
            raise ValueError(
                f"{speech.shape[1]} tokens give no frames while more are to follow. Wait for at least {LOOKAHEAD + 1}, "
                "or pass finalize=True."
            )
        row = (
            speech if prompt_tokens is None else torch.cat([self.token_row(prompt_tokens), speech], dim=1)
        )  # (1, P + T)
        ratio = self.flow_config.token_mel_ratio
        if ratio * row.shape[1] > MAX_FRAMES:
            raise ValueError(
                f"{row.shape[1]} tokens with their prompt are too many: {MAX_FRAMES // ratio} fit. Split the text."
            )
        if finalize:
            return self.flow_model.encode(row, chunk=chunk)
        if lookahead == "context":
            return self.flow_model.encode(row[:, :-LOOKAHEAD], chunk=chunk, context=row[:, -LOOKAHEAD:])
        encoded, mu = self.flow_model.encode(row, chunk=chunk)
        return encoded[:, : -ratio * LOOKAHEAD], mu[:, : -ratio * LOOKAHEAD]

    @torch.no_grad()
    def speaker(self, embedding: Tensor) -> Tensor:
        """Returns the normalised, projected speaker vector: (1, spk_embed_dim) -> (1, n_mels)."""
        return self.flow_model.speaker(embedding.to(self.device))

    def schedule(self, n_steps: int | None = None) -> Tensor:
        """Returns the flow times of the Euler steps, (n_steps + 1,)."""
        return schedule(self.flow_config.n_steps if n_steps is None else n_steps)

    @torch.no_grad()
    def estimate(self, x: Tensor, mu: Tensor, t: Tensor, spk: Tensor, cond: Tensor, chunk: int | None = None) -> Tensor:
        """Returns the velocity (B, n_mels, N) at x (B, n_mels, N) and times t (B,); the chunk counts tokens."""
        return self.flow_model.velocity(x, t, mu, spk, cond, chunk=usable_chunk(chunk))

    @torch.no_grad()
    def f0(self, mel: Tensor) -> Tensor:
        """Returns the fundamental frequency in Hz: (1, n_mels, N) -> (1, N)."""
        return self.hift.f0(mel)

    @torch.no_grad()
    def source(
        self,
        f0: Tensor,
        mode: str = "frame",
        noise: Tensor | float | None = None,
        phase: Tensor | float | None = None,
    ) -> Tensor:
        """Returns the excitation of a pitch curve (1, N), (1, 1, S * N); None: drawn from seed 0. See `Hift.source`."""
        return self.hift.source(f0, mode, noise, phase, torch.Generator().manual_seed(0))

    @torch.no_grad()
    def vocode(
        self,
        mel: Tensor,
        source: Tensor | None = None,
        source_cache: Tensor | None = None,
        source_mode: str = "frame",
        source_noise: Tensor | float | None = None,
        phase: Tensor | float | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the waveform (1, S * N) of a mel (1, n_mels, N), and its source (1, 1, S * N); see `Hift.forward`."""
        generator = torch.Generator().manual_seed(0)
        return self.hift(mel, source, source_cache, source_mode, source_noise, phase, generator)

    def wave_stream(
        self,
        source_mode: str = "frame",
        source_noise: Tensor | float | None = None,
        phase: Tensor | float | None = None,
        fade: str | None = None,
    ) -> WaveStream:
        """Starts an utterance whose mel arrives in pieces; `fade` None: the config's."""
        return WaveStream(self.hift, source_mode, source_noise, phase, fade or self.hift_config.fade)

    def token_stream(
        self, prompt: tuple[Any, Any, Any] | None = None, style: str = "exact", **options: Any
    ) -> TokenStream:
        """Starts an utterance whose tokens arrive in pieces; the options are those of `TokenStream`."""
        return TokenStream(self, self.voice(*(prompt or ())), style, **options)

    def stream(
        self,
        token_chunks: Iterable[TokenIds],
        prompt: tuple[Any, Any, Any] | None = None,
        style: str = "exact",
        **options: Any,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields (mel (1, n_mels, n), samples (1, m)) while tokens arrive; the last chunk flushes.

        Each chunk waits for the next one, which tells whether it was the last; who knows better uses `token_stream`.

        Args:
            prompt: (tokens, mel, embedding) as in `flow`; None: no voice.
            style: "exact", "official" or "vocalnet", see `token_stream.STYLES`.
            options: noise, source_noise, phase, fade, chunk, n_steps, cfg_rate; see `TokenStream`.
        """
        stream = self.token_stream(prompt, style, **options)
        held: TokenIds | None = None
        for tokens in token_chunks:
            if held is not None:
                yield from stream.push(held)
            held = tokens
        if held is not None:
            yield from stream.push(held, last=True)

    def voice(
        self, tokens: Tensor | None = None, mel: Tensor | None = None, embedding: Tensor | None = None
    ) -> VoicePrompt:
        """Returns a checked prompt on our device: (1, P), (1, ratio * P, n_mels), (1, spk_embed_dim); None: none.

        Raises:
            ValueError: tokens and mel do not belong together.
        """
        row = self.token_row(() if tokens is None else tokens)
        config = self.flow_config
        if mel is None:
            mel = torch.zeros(1, 0, config.n_mels)
        if embedding is None:
            embedding = torch.zeros(1, config.spk_embed_dim)
        shape = (1, config.token_mel_ratio * row.shape[1], config.n_mels)
        if mel.shape != shape:
            raise ValueError(f"A prompt of {row.shape[1]} tokens needs a mel of shape {shape}, not {tuple(mel.shape)}.")
        if embedding.shape != (1, config.spk_embed_dim):
            raise ValueError(f"The speaker vector must be (1, {config.spk_embed_dim}), not {tuple(embedding.shape)}.")
        return VoicePrompt(row, mel.to(self.device), embedding.to(self.device))

    def token_row(self, tokens: TokenIds) -> Tensor:
        """Returns token ids as (1, T) on our device.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        row = torch.as_tensor(tokens if isinstance(tokens, Tensor) else list(tokens), dtype=torch.long)
        row = row.to(self.device).reshape(1, -1)  # (1, T)
        if row.numel() and int(row.max()) >= self.flow_config.vocab_size:
            raise ValueError(
                f"Speech token {int(row.max())} is not in the vocoder's vocabulary of {self.flow_config.vocab_size}. "
                "Remove special tokens first, and use the vocoder that belongs to the talker."
            )
        return row

    def noise_frames(self, noise: Tensor | None, start: int, end: int) -> Tensor:
        """Returns columns start..end of the starting noise, (1, n_mels, end - start).

        Raises:
            ValueError: there are not so many.
        """
        config = self.flow_config
        noise, scale = (initial_noise(config.n_mels), config.temperature) if noise is None else (noise, 1.0)
        if end > min(noise.shape[2], MAX_FRAMES):
            raise ValueError(
                f"The speech and its prompt reach mel frame {end}; the limit is {noise.shape[2]}. Split it."
            )
        return scale * noise[..., start:end].to(self.device)


def load_token2wav(folder: str | PathLike[str], device: str | torch.device = "cpu") -> Token2Wav:
    """Loads `flow` and `hift` weights (.safetensors or .pt) of a folder, ready for inference.

    Sizes come from the folder's config.json, keys "flow" and "hift"; without one they are CosyVoice2-0.5B's.

    Raises:
        ValueError: a file is missing or does not fit.
    """
    folder = Path(folder)
    path = folder / "config.json"
    values = json.loads(path.read_text()) if path.is_file() else {}
    flow = from_dict(FlowConfig, values.get("flow") or {}, f"{path}: flow")
    hift = from_dict(HiftConfig, values.get("hift") or {}, f"{path}: hift")
    flow_state, hift_state = read_state(folder, "flow"), read_state(folder, "hift")
    token2wav = Token2Wav(flow, hift)
    load_weights(token2wav.flow_model, flow_state, "flow")
    load_weights(token2wav.hift, hift_state, "HiFT")
    token2wav.hift.fuse_weight_norm()
    token2wav.voices = Voices(folder)
    return token2wav.to(device).eval().requires_grad_(False)
