"""The FSQ speech tokenizer: codes and values, rate, locality."""

import torch

from vocalnet.config import SpeechTokenizerConfig
from vocalnet.vocoder.speech_tokenizer import FiniteScalarQuantizer, SpeechTokenizer


def test_codes_and_values_are_one_to_one():
    quantizer = FiniteScalarQuantizer((7, 5, 3))
    codes = torch.arange(7 * 5 * 3)
    values = quantizer.values(codes)
    assert len({tuple(row.tolist()) for row in values}) == len(codes)
    assert values.abs().max() == 1
    # every quantised value is reached by some input, and gives its own code back
    rounded, again = quantizer(torch.atanh(values * 0.999))
    assert torch.equal(again, codes)
    torch.testing.assert_close(rounded, values)


def test_gradients_pass_straight_through():
    z = torch.zeros(3, requires_grad=True)
    FiniteScalarQuantizer((5, 5, 5))(z)[0].sum().backward()
    assert (z.grad > 0).all()


def test_four_mel_frames_make_one_token_and_a_token_is_local():
    torch.manual_seed(0)
    config = SpeechTokenizerConfig(80, 16, 32, 2, 7, (5, 5))
    tokenizer = SpeechTokenizer(config).eval()
    mel = torch.randn(1, 80, 401)
    tokens = tokenizer.tokenize(mel)
    assert tokens.shape == (1, 101)
    assert tokens.max() < config.n_units
    changed = mel.clone()
    changed[..., 300:] += 3
    assert torch.equal(tokenizer.tokenize(changed)[:, :60], tokens[:, :60])
