"""HiFT vocoder: mel -> f0 -> harmonic source -> waveform by inverse STFT.

HiFTNet (Li et al., 2023) as released with CosyVoice 2; attribute names are those of the released state dict. The
forward parts are differentiable and batched, so that the same class is trained.

Letters: B batch, C channels, N mel frames, S samples per mel frame, F = n_fft / 2 + 1 bins, L = S * N / hop + 1 frames
of the short STFT.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from vocalnet.config import HiftConfig

N_HARMONICS = 9  # the fundamental and eight overtones
SINE_AMPLITUDE = 0.1
VOICED_NOISE = 0.003  # standard deviation
UNVOICED_NOISE = SINE_AMPLITUDE / 3
VOICED_ABOVE_HZ = 10.0
RESBLOCK_KERNELS = (3, 7, 11)
RESBLOCK_DILATIONS = (1, 3, 5)
LEAKY_SLOPE = 0.1
MAX_MAGNITUDE = 100.0
MAX_SAMPLE = 0.99

# Starting points of a training from scratch; a checkpoint overwrites them.
INIT_LOG_MAGNITUDE = -3.0  # about the mean log magnitude of speech in a 16-sample frame
INIT_F0_HZ = 100.0
INIT_RESIDUAL_GAIN = 0.3  # of the last convolution of each residual step


class HiftConv1d(nn.Conv1d):
    """A convolution that `decoder.kernels` may pack: it is called, and nobody else reads its weight."""


class Snake(nn.Module):
    """x + sin^2(a x) / a with one a per channel (Ziyin et al., 2020): (B, C, n) -> (B, C, n)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        alpha = self.alpha[:, None]
        return x + torch.sin(alpha * x).square() / (alpha + 1e-9)


class ResidualBlock(nn.Module):
    """Three residual steps of growing dilation: (B, C, n) -> (B, C, n)."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(_normed_conv(channels, channels, kernel, d) for d in RESBLOCK_DILATIONS)
        self.convs2 = nn.ModuleList(
            _normed_conv(channels, channels, kernel, gain=INIT_RESIDUAL_GAIN) for _ in RESBLOCK_DILATIONS
        )
        self.activations1 = nn.ModuleList(Snake(channels) for _ in RESBLOCK_DILATIONS)
        self.activations2 = nn.ModuleList(Snake(channels) for _ in RESBLOCK_DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        for conv1, conv2, act1, act2 in zip(
            self.convs1, self.convs2, self.activations1, self.activations2, strict=True
        ):
            x = x + conv2(act2(conv1(act1(x))))
        return x


class F0Predictor(nn.Module):
    """Fundamental frequency in Hz, about 0 where unvoiced: (B, n_mels, N) -> (B, N)."""

    def __init__(self, n_mels: int, channels: int) -> None:
        super().__init__()
        widths = (n_mels, *[channels] * 5)
        layers = [(_normed_conv(a, b, 3), nn.ELU()) for a, b in itertools.pairwise(widths)]
        self.condnet = nn.Sequential(*(module for layer in layers for module in layer))
        self.classifier = nn.Linear(channels, 1)
        with torch.no_grad():  # features of size one then span f0 values of size 100 Hz
            self.classifier.weight *= INIT_F0_HZ
            self.classifier.bias.fill_(INIT_F0_HZ)

    def forward(self, mel: Tensor) -> Tensor:
        features = self.condnet(mel).transpose(1, 2)  # (B, N, C)
        return self.classifier(features).squeeze(-1).abs()  # (B, N)


class SourceModule(nn.Module):
    """Harmonic sines and noise of a given f0, merged to one signal: (B, N) -> (B, 1, S * N)."""

    def __init__(self, sample_rate_hz: int, samples_per_frame: int) -> None:
        super().__init__()
        self.sample_rate_hz = sample_rate_hz
        self.samples_per_frame = samples_per_frame
        self.l_linear = nn.Linear(N_HARMONICS, 1)
        nn.init.constant_(self.l_linear.weight, 1 / 3)  # no overtone is missing at the start
        nn.init.zeros_(self.l_linear.bias)

    def forward(self, f0: Tensor, mode: str, noise: Tensor | float, phase: Tensor | float) -> Tensor:
        """See `Hift.source`; here `noise` (B, S * N, 9) and `phase` (B, 9, 1) are always given, 0 for none."""
        with torch.no_grad():  # sines of a predicted f0 give no useful gradient
            angle = SOURCE_ANGLES[mode](f0, self.sample_rate_hz, self.samples_per_frame, phase)  # (B, 9, S * N)
            is_voiced = (f0 > VOICED_ABOVE_HZ).repeat_interleave(self.samples_per_frame, dim=1)[..., None]
            sines = SINE_AMPLITUDE * angle.sin().transpose(1, 2) * is_voiced  # (B, S * N, 9)
            excitation = sines + noise * torch.where(is_voiced, VOICED_NOISE, UNVOICED_NOISE)
        return torch.tanh(self.l_linear(excitation)).transpose(1, 2)  # (B, 1, S * N)


def frame_angles(f0: Tensor, sample_rate_hz: int, samples_per_frame: int, phase: Tensor | float) -> Tensor:
    """Phase accumulated per mel frame and interpolated (official CosyVoice 2): (B, N) -> (B, 9, S * N).

    `phase` has no effect, as in the original, where the interpolation never reads the sample that carries it.
    """
    cycles = (_harmonics(f0) / sample_rate_hz) % 1  # (B, 9, N)
    angle = torch.cumsum(cycles, dim=2) * 2 * math.pi * samples_per_frame
    return functional.interpolate(angle, scale_factor=float(samples_per_frame), mode="linear")  # (B, 9, S * N)


def sample_angles(f0: Tensor, sample_rate_hz: int, samples_per_frame: int, phase: Tensor | float) -> Tensor:
    """Phase accumulated per sample (NSF, and the CosyVoice 2 inside VocalNet): (B, N) -> (B, 9, S * N)."""
    cycles = (_harmonics(f0) / sample_rate_hz).repeat_interleave(samples_per_frame, dim=2)  # (B, 9, S * N)
    return 2 * math.pi * (torch.cumsum(cycles, dim=2) % 1) + phase


SOURCE_ANGLES = {"frame": frame_angles, "sample": sample_angles}


class Hift(nn.Module):
    """The vocoder; `forward` runs f0, source and decode. `f0`, `source` and `decode` are trained one by one."""

    def __init__(self, config: HiftConfig) -> None:
        super().__init__()
        _check(config)
        self.config = config
        self.samples_per_frame = config.samples_per_frame
        channels = [config.base_channels // 2**i for i in range(len(config.upsample_rates) + 1)]
        n_spectrum = config.istft_n_fft + 2  # real and imaginary parts of the F bins
        self.m_source = SourceModule(config.sample_rate_hz, config.samples_per_frame)
        self.f0_predictor = F0Predictor(config.n_mels, config.f0_channels)
        self.conv_pre = _normed_conv(config.n_mels, channels[0], 7)
        self.ups = nn.ModuleList()
        self.source_downs = nn.ModuleList()
        self.source_resblocks = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for i, (rate, kernel) in enumerate(zip(config.upsample_rates, config.upsample_kernels, strict=True)):
            self.ups.append(_normed_transpose(channels[i], channels[i + 1], kernel, rate))
            down = math.prod(config.upsample_rates[i + 1 :])  # from the STFT's frame rate to this stage's
            size = (1, 1, 0) if down == 1 else (2 * down, down, down // 2)
            self.source_downs.append(HiftConv1d(n_spectrum, channels[i + 1], *size))
            self.source_resblocks.append(ResidualBlock(channels[i + 1], config.source_resblock_kernels[i]))
            self.resblocks.extend(ResidualBlock(channels[i + 1], k) for k in RESBLOCK_KERNELS)
        self.conv_post = _normed_conv(channels[-1], n_spectrum, 7)
        with torch.no_grad():
            self.conv_post.get_parameter("bias")[: n_spectrum // 2] = INIT_LOG_MAGNITUDE
        self.window: Tensor
        self.register_buffer("window", torch.hann_window(config.istft_n_fft), persistent=False)

    def f0(self, mel: Tensor) -> Tensor:
        """Returns f0 in Hz per mel frame: (B, n_mels, N) -> (B, N). Not causal: it sees five frames either side."""
        return self.f0_predictor(mel)

    def source(
        self,
        f0: Tensor,
        mode: str = "frame",
        noise: Tensor | float | None = None,
        phase: Tensor | float | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Returns the excitation of a pitch curve, (B, 1, S * N).

        Args:
            f0: Hz per mel frame, (B, N).
            mode: "frame" or "sample": where the phase is accumulated.
            noise: standard normal (B, S * N, 9), or 0 for none; None: drawn.
            phase: initial phases in radians (B, 9, 1), used by "sample", or 0; None: drawn, 0 for the fundamental.
            generator: source of the drawn values; None: torch's global one.

        Raises:
            ValueError: unknown mode, or noise of another shape.
        """
        if mode not in SOURCE_ANGLES:
            raise ValueError(f"Unknown source mode {mode!r}. Choose one of: {', '.join(SOURCE_ANGLES)}.")
        B, N = f0.shape
        where = generator.device if generator is not None else f0.device
        shape = (B, N * self.samples_per_frame, N_HARMONICS)
        if noise is None:
            noise = torch.randn(shape, generator=generator, device=where).to(f0)
        elif isinstance(noise, Tensor) and noise.shape != shape:
            raise ValueError(f"The source noise has shape {tuple(noise.shape)}; it must be {shape}, or 0 for none.")
        if phase is None:
            phase = (torch.rand((B, N_HARMONICS, 1), generator=generator, device=where) * 2 - 1).to(f0) * math.pi
            phase[:, 0] = 0.0
        return self.m_source(f0, mode, noise, phase)

    def decode(self, mel: Tensor, source: Tensor) -> Tensor:
        """Returns the waveform, (B, n_mels, N) and (B, 1, S * N) -> (B, S * N)."""
        spectrum = self.source_spectrum(source)  # (B, 2F, L)
        x = self.conv_pre(mel)  # (B, C, N)
        n_kernels = len(RESBLOCK_KERNELS)
        last = len(self.ups) - 1
        for i, up in enumerate(self.ups):
            x = up(functional.leaky_relu(x, LEAKY_SLOPE))  # (B, C_i, n_i)
            if i == last:
                x = functional.pad(x, (1, 0), mode="reflect")  # (B, C_i, L)
            x = x + self.source_resblocks[i](self.source_downs[i](spectrum))
            x = torch.stack([block(x) for block in self.resblocks[n_kernels * i : n_kernels * (i + 1)]]).mean(0)
        log_magnitude, phase = self.conv_post(functional.leaky_relu(x)).chunk(2, dim=1)  # (B, F, L)
        magnitude = log_magnitude.exp().clamp(max=MAX_MAGNITUDE)
        phase = phase.sin()
        bins = torch.complex(magnitude * phase.cos(), magnitude * phase.sin())
        n_fft, hop = self.config.istft_n_fft, self.config.istft_hop
        return torch.istft(bins, n_fft, hop, window=self.window).clamp(-MAX_SAMPLE, MAX_SAMPLE)  # (B, S * N)

    def source_spectrum(self, source: Tensor) -> Tensor:
        """Real, then imaginary parts of the source's STFT: (B, 1, S * N) -> (B, 2F, L)."""
        n_fft, hop = self.config.istft_n_fft, self.config.istft_hop
        bins = torch.stft(source.squeeze(1), n_fft, hop, window=self.window, return_complex=True)
        return torch.cat([bins.real, bins.imag], dim=1)

    def forward(
        self,
        mel: Tensor,
        source: Tensor | None = None,
        source_cache: Tensor | None = None,
        mode: str = "frame",
        noise: Tensor | float | None = None,
        phase: Tensor | float | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the waveform (B, S * N) of a mel (B, n_mels, N), and the source (B, 1, S * N) it was made with.

        Args:
            source: the excitation; None: made from the mel's own f0.
            source_cache: (B, 1, n), overwrites the first n samples of the excitation.
            mode, noise, phase, generator: see `source`.
        """
        if source is None:
            source = self.source(self.f0(mel), mode, noise, phase, generator)
        if source_cache is not None:
            source = torch.cat([source_cache, source[..., source_cache.shape[2] :]], dim=2)
        return self.decode(mel, source), source

    def fuse_weight_norm(self) -> None:
        """Replaces every normalised weight by its value: faster, and no longer trainable as before."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")


def _harmonics(f0: Tensor) -> Tensor:
    """Frequencies of the fundamental and its overtones in Hz: (B, N) -> (B, 9, N)."""
    return f0[:, None] * torch.arange(1, N_HARMONICS + 1, dtype=f0.dtype, device=f0.device)[:, None]


def _normed_conv(in_channels: int, channels: int, kernel: int, dilation: int = 1, gain: float = 1.0) -> HiftConv1d:
    """Length-preserving convolution with weight norm; keeps the variance of its input times gain^2."""
    conv = HiftConv1d(in_channels, channels, kernel, dilation=dilation, padding=(kernel - 1) * dilation // 2)
    nn.init.normal_(conv.weight, std=gain / math.sqrt(in_channels * kernel))
    nn.init.zeros_(conv.get_parameter("bias"))
    return weight_norm(conv)


def _normed_transpose(in_channels: int, channels: int, kernel: int, rate: int) -> nn.ConvTranspose1d:
    """Upsampling by `rate` with weight norm; keeps the variance of its input."""
    conv = nn.ConvTranspose1d(in_channels, channels, kernel, rate, padding=(kernel - rate) // 2)
    nn.init.normal_(conv.weight, std=1 / math.sqrt(in_channels * kernel / rate))
    nn.init.zeros_(conv.get_parameter("bias"))
    return weight_norm(conv)


def _check(config: HiftConfig) -> None:
    """Refuses sizes for which lengths would not match."""
    rates, kernels = config.upsample_rates, config.upsample_kernels
    if not len(rates) == len(kernels) == len(config.source_resblock_kernels):
        raise ValueError("hift: upsample_rates, upsample_kernels and source_resblock_kernels need equal lengths.")
    for rate, kernel in zip(rates, kernels, strict=True):
        if kernel < rate or (kernel - rate) % 2:
            raise ValueError(
                f"hift: upsample kernel {kernel} does not fit rate {rate}; choose {rate} plus an even number."
            )
    if config.base_channels % 2 ** len(rates):
        raise ValueError(f"hift: base_channels {config.base_channels} must be a multiple of {2 ** len(rates)}.")
