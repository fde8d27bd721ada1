"""Flow matching: speech tokens -> mel spectrogram.

CosyVoice 2, section 2.3 (chunk-aware causal flow matching), with the optimal-transport paths of Matcha-TTS; attribute
names are those of the released state dict. The module holds no state: caches are arguments.

Letters: B batch, T tokens, N = ratio * T mel frames, D encoder width. A chunk is counted in tokens everywhere; layers
at the mel rate see `ratio` times as many frames.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from vocalnet.config import FlowConfig
from vocalnet.graphs import Graphable
from vocalnet.vocoder.causal import PassCache, length_mask
from vocalnet.vocoder.conformer import UpsampleEncoder
from vocalnet.vocoder.estimator import Estimator
from vocalnet.vocoder.memory import SpareMemory
from vocalnet.vocoder.static import Velocity, static_velocity

SIGMA_MIN = 1e-6  # width of the paths' ends around the data
DROP_CONDITION = 0.2  # share of training samples without condition, for classifier-free guidance


@dataclass
class FlowCache:
    """What a stream keeps between calls: the encoder's pass and one estimator pass per Euler step."""

    spare: SpareMemory = field(default_factory=SpareMemory)
    encoder: PassCache = field(default_factory=PassCache)
    steps: dict[int, PassCache] = field(default_factory=dict)

    def step(self, index: int) -> PassCache:
        """Returns the cache of Euler step `index`; empty at first."""
        return self.steps.setdefault(index, PassCache(self.spare))


class Flow(Graphable):
    """Tokens, speaker and prompt mel -> mel."""

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        self.input_embedding = nn.Embedding(config.vocab_size, config.input_size)
        self.spk_embed_affine_layer = nn.Linear(config.spk_embed_dim, config.n_mels)
        self.encoder = UpsampleEncoder(config.encoder, config.input_size, config.token_mel_ratio)
        self.encoder_proj = nn.Linear(config.encoder.output_size, config.n_mels)
        self.decoder = nn.ModuleDict({"estimator": Estimator(config.estimator, config.n_mels)})

    def encode(
        self,
        tokens: Tensor,
        lengths: Tensor | None = None,
        chunk: int | None = None,
        context: Tensor | None = None,
        cache: PassCache | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns encoder output (B, N, D) and its projection mu (B, N, n_mels).

        Args:
            tokens: (B, T); negative ids count as 0, as in the original.
            lengths: valid tokens (B,), padding on the right; None: all.
            chunk: tokens per attention chunk; None: everything is visible.
            context: the three tokens (B, 3) after the last, for the look-ahead only; None: zeros.
            cache: pass over the earlier tokens, whose number is a multiple of `chunk`.
        """
        ahead = None if context is None else self.input_embedding(context.clamp(min=0))
        encoded = self.encoder(self.input_embedding(tokens.clamp(min=0)), ahead, lengths, chunk, cache)  # (B, N, D)
        return encoded, self.encoder_proj(encoded)

    def speaker(self, embedding: Tensor) -> Tensor:
        """Projects a raw speaker vector, (B, spk_embed_dim) -> (B, n_mels). Zeros stand for no speaker."""
        return self.spk_embed_affine_layer(functional.normalize(embedding, dim=1))

    def velocity(
        self,
        x_t: Tensor,
        t: Tensor,
        mu: Tensor,
        spk: Tensor,
        cond: Tensor,
        lengths: Tensor | None = None,
        chunk: int | None = None,
        cache: PassCache | None = None,
    ) -> Tensor:
        """Returns the estimated velocity (B, n_mels, N).

        Args:
            x_t, mu, cond: noisy mel, encoder output and prompt mel, each (B, n_mels, N).
            t: flow time in 0..1, (B,).
            spk: projected speaker (B, n_mels).
            lengths: valid frames (B,); None: all.
            chunk: tokens per attention chunk; None: everything is visible.
            cache: pass over the earlier frames at the same t.
        """
        frames = None if chunk is None else chunk * self.config.token_mel_ratio
        return self.decoder["estimator"](x_t, mu, t, spk, cond, lengths, frames, cache)

    def sample(
        self,
        noise: Tensor,
        mu: Tensor,
        spk: Tensor,
        cond: Tensor,
        chunk: int | None = None,
        n_steps: int | None = None,
        cfg_rate: float | None = None,
        cache: FlowCache | None = None,
    ) -> Tensor:
        """Integrates the flow from noise to mel with Euler steps, (1, n_mels, N) -> (1, n_mels, N).

        Guided rows (condition, no condition) share one batch-2 call; a `cfg_rate` of 0 skips the second row.
        """
        cfg_rate = self.config.cfg_rate if cfg_rate is None else cfg_rate
        n_rows = 2 if cfg_rate else 1
        unconditional = (0, 0, 0, 0, 0, n_rows - 1)  # pads the batch with a row of zeros
        mu, cond = functional.pad(mu, unconditional), functional.pad(cond, unconditional)  # (n_rows, n_mels, N)
        spk = functional.pad(spk, unconditional[2:])  # (n_rows, n_mels)
        times = schedule(self.config.n_steps if n_steps is None else n_steps).to(noise)
        x = noise
        with self._velocities(mu, spk, cond, chunk, cache) as velocity:
            for k in range(len(times) - 1):
                v = velocity(k, x.expand(n_rows, -1, -1), times[k].expand(n_rows))
                if n_rows == 2:
                    v = (1 + cfg_rate) * v[:1] - cfg_rate * v[1:]
                x = x + (times[k + 1] - times[k]) * v
        return x

    def _velocities(
        self, mu: Tensor, spk: Tensor, cond: Tensor, chunk: int | None, cache: FlowCache | None
    ) -> AbstractContextManager[Velocity]:
        """Gives the velocity of each Euler step: by static passes if they are prepared, without cache or gradient."""
        if self.passes is not None and cache is None and not torch.is_grad_enabled():
            return static_velocity(self, mu, spk, cond, chunk)

        def velocity(step: int, x: Tensor, t: Tensor) -> Tensor:
            seen = None if cache is None else cache.step(step)
            return self.velocity(x, t, mu, spk, cond, chunk=chunk, cache=seen)

        return nullcontext(velocity)


def schedule(n_steps: int) -> Tensor:
    """Returns the flow times 1 - cos(pi/2 * k / n_steps), (n_steps + 1,): short steps first."""
    return 1 - torch.cos(torch.linspace(0, 1, n_steps + 1) * 0.5 * math.pi)


def flow_matching_loss(
    flow: Flow,
    tokens: Tensor,
    token_lengths: Tensor,
    mel: Tensor,
    generator: torch.Generator,
    chunk: int | None = None,
    embedding: Tensor | None = None,
    prior: float = 0.0,
) -> Tensor:
    """Returns the conditional flow-matching loss, a scalar (Matcha-TTS, Eq. 3; CosyVoice 2, section 2.3).

    x_t = (1 - (1 - sigma_min) t) x_0 + t x_1 with target x_1 - (1 - sigma_min) x_0; t is drawn like the schedule of
    `Flow.sample`. The prompt mel is zero: our models speak with one voice and need no prompt.

    Args:
        tokens: (B, T), padded on the right; `token_lengths` (B,) are valid.
        mel: x_1, (B, n_mels, N) with N = ratio * T; normalised as the vocoder expects it.
        generator: source of x_0, t and the dropped conditions.
        chunk: tokens per attention chunk; None: full attention.
        embedding: raw speaker vectors (B, spk_embed_dim); None: no speaker.
        prior: weight of the mean absolute difference between mu and the mel, which is added (a deliberate difference
            from CosyVoice 2, in the spirit of Matcha-TTS's prior loss: little data teaches the encoder sooner).
    """
    B, _, N = mel.shape
    assert flow.config.token_mel_ratio * tokens.shape[1] == N

    where = generator.device
    x_0 = torch.randn(mel.shape, generator=generator, device=where).to(mel)
    uniform = torch.rand((2, B), generator=generator, device=where).to(mel)
    t = 1 - torch.cos(uniform[0] * 0.5 * math.pi)  # (B,)
    is_kept = (uniform[1] >= DROP_CONDITION).to(mel)[:, None]  # (B, 1)
    if embedding is None:
        embedding = mel.new_zeros(B, flow.config.spk_embed_dim)
    _, mu = flow.encode(tokens, token_lengths, chunk)  # (B, N, n_mels)
    mu = mu.transpose(1, 2)  # (B, n_mels, N)
    spk = flow.speaker(embedding) * is_kept
    weight = t[:, None, None]
    x_t = (1 - (1 - SIGMA_MIN) * weight) * x_0 + weight * mel
    target = mel - (1 - SIGMA_MIN) * x_0
    lengths = flow.config.token_mel_ratio * token_lengths
    velocity = flow.velocity(x_t, t, mu * is_kept[..., None], spk, torch.zeros_like(mel), lengths, chunk)
    is_valid = length_mask(lengths, N)[:, None].to(mel)  # (B, 1, N)
    errors = (velocity - target).square() + prior * (mu - mel).abs()
    return (errors * is_valid).sum() / (is_valid.sum() * mel.shape[1])
