"""A light discriminator for the vocoder stage: convolutions over spectrograms of a few resolutions (arXiv 2106.07889).

It tells the vocoder what a spectral loss averages away. The vocoder's loss and the discriminator's are added up and
minimised by one optimiser: each is computed so that its gradient reaches its own side only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

RESOLUTIONS = ((256, 64), (512, 128), (1024, 256))  # n_fft, hop
SLOPE = 0.1


class SpectrogramDiscriminator(nn.Module):
    """Scores patches of the log spectrogram of one resolution."""

    def __init__(self, n_fft: int, hop: int, channels: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        widths = (1, channels, 2 * channels, 2 * channels, 2 * channels)
        strides = ((2, 1), (2, 2), (2, 2), (2, 1))
        self.layers = nn.ModuleList(
            nn.utils.parametrizations.weight_norm(nn.Conv2d(a, b, (5, 3), stride, (2, 1)))
            for a, b, stride in zip(widths, widths[1:], strides, strict=False)
        )
        self.score = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, waves: Tensor) -> list[Tensor]:
        """Returns the features of every layer for waves (B, n), the scores (B, 1, F, T) last."""
        window = torch.hann_window(self.n_fft)
        spectrum = torch.stft(waves, self.n_fft, self.hop, window=window, return_complex=True)
        x = torch.view_as_real(spectrum).square().sum(-1).clamp(min=1e-7).log()[:, None] / 4
        features = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return [*features, self.score(x)]


class Discriminator(nn.ModuleList):
    """One `SpectrogramDiscriminator` for each of RESOLUTIONS."""

    def __init__(self, channels: int):
        super().__init__(SpectrogramDiscriminator(n_fft, hop, channels) for n_fft, hop in RESOLUTIONS)

    def losses(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns three losses of waves (B, n) and of a vocoder's copies (B, n).

        They are the discriminator's own (least squares), the vocoder's (to be taken for real) and the distance of the
        features. The first sends no gradient to the vocoder, the other two none to the discriminator.
        """
        own = adversarial = matching = real.new_zeros(())
        for scale in self:
            of_real, of_fake = scale(real), scale(fake.detach())
            own = own + (of_real[-1] - 1).square().mean() + of_fake[-1].square().mean()
            frozen = {name: value.detach() for name, value in scale.named_parameters()}
            judged = functional_call(scale, frozen, (fake,))
            adversarial = adversarial + (judged[-1] - 1).square().mean()
            pairs = zip(judged[:-1], of_real[:-1], strict=True)
            matching = matching + torch.stack([functional.l1_loss(a, b.detach()) for a, b in pairs]).mean()
        return own / len(self), adversarial / len(self), matching / len(self)
