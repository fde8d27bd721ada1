"""How the vocoder's tests compare tensors, and the sizes of their tiny model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vocalnet.config import EstimatorConfig, FlowConfig, FlowEncoderConfig, HiftConfig

TINY_FLOW = FlowConfig(
    input_size=12,
    vocab_size=50,
    n_steps=3,
    encoder=FlowEncoderConfig(16, 2, 24, 1, 1),
    estimator=EstimatorConfig(channels=(16,), attention_head_dim=8, n_blocks=1, num_mid_blocks=1, num_heads=2),
)
TINY_HIFT = HiftConfig(
    sample_rate_hz=16_000, base_channels=16, f0_channels=8, upsample_rates=(8, 5, 2), upsample_kernels=(16, 11, 4)
)
STRETCH, STRETCH_TOLERANCE = 480, 2e-3  # samples, and their mean difference


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def assert_sounds_as(actual: Tensor, expected: Tensor) -> None:
    """Compares waves (1, samples) whose pitch was predicted on different processors, stretch by stretch.

    The last bit of a predicted pitch turns its harmonics by some hundredths of a radian within a second, and random
    weights amplify that where they are near a zero; a sample's shift is more than ten times what is allowed.
    """
    assert actual.shape == expected.shape
    stretches = (actual - expected).abs()[0].split(STRETCH)
    assert max(float(stretch.mean()) for stretch in stretches) <= STRETCH_TOLERANCE


def stage_outputs(module: nn.Module, names: dict[str, str], run: Callable[[], object]) -> dict[str, Tensor]:
    """Runs `run()` and returns what the named submodules gave."""
    outputs: dict[str, Tensor] = {}
    handles = [
        module.get_submodule(path).register_forward_hook(
            lambda _module, _inputs, output, key=key: outputs.__setitem__(key, output)
        )
        for key, path in names.items()
    ]
    run()
    for handle in handles:
        handle.remove()
    return outputs
