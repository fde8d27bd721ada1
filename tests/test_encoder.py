"""The speech encoder: lengths, batch invariance, and the same numbers as transformers' own forward."""

import torch

from vocalnet.config import EncoderConfig
from vocalnet.encoder import SpeechEncoder

CONFIG = EncoderConfig(n_mels=16, dim=16, n_layers=2, n_heads=2, ffn_dim=32, window_s=1.0)


def test_equals_whisper_on_a_whole_window():
    torch.manual_seed(0)
    encoder = SpeechEncoder(CONFIG).eval()
    mel = torch.randn(2, 16, encoder.max_frames)
    with torch.no_grad():
        ours, theirs = encoder(mel), encoder.whisper(mel).last_hidden_state
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_a_clip_does_not_depend_on_its_batch_mates():
    torch.manual_seed(0)
    encoder = SpeechEncoder(CONFIG).eval()
    mel, lengths = torch.randn(2, 16, 60), torch.tensor([60, 33])
    mel[1, :, 33:] = 0
    with torch.no_grad():
        together, alone = encoder(mel, lengths)[1, :17], encoder(mel[1:, :, :33])[0]
    assert alone.shape == (17, 16)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
