"""Next-token prediction: one token in, one token out per row."""

from __future__ import annotations

from torch import Tensor, nn

from vocalnet.config import TalkerConfig
from vocalnet.decoder.backbone import Output
from vocalnet.decoder.heads.contract import Sampler, Step, Teacher, Text
from vocalnet.decoder.heads.targets import shifted_targets


class NTPHead(nn.Module):
    """The main head alone (`NTP` of Table 3)."""

    n_heads = 1
    n_depths = 0
    stride = 1

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.main = Output(config)

    def embed(self, table: nn.Embedding, tokens: Tensor) -> Tensor:
        """Maps tokens (B, n) to embeddings (B, n, D)."""
        return table(tokens)

    def targets(self, tokens: Tensor, ends: Tensor, eos_id: int) -> Tensor:
        """Returns labels (1, B, S + 1)."""
        return shifted_targets(tokens, ends, eos_id, 1)

    def weights(self, decay: float) -> tuple[float, ...]:
        """Returns the single weight 1."""
        return (1.0,)

    def states(self, h: Tensor, teacher: Teacher) -> list[Tensor]:
        """Returns the decoder's output on the speech rows, (B, L_s, D)."""
        return [teacher.speech(h)]

    def project(self, k: int, state: Tensor) -> Tensor:
        """Maps states (..., D) to logits (..., V_s)."""
        return self.main(state)

    def prefill(self, h: Tensor, text: Text, n_heads: int) -> None:
        """Has nothing to fill."""

    def step(self, h: Tensor, step: Step, n_heads: int, sample: Sampler) -> tuple[Tensor, Tensor]:
        """Proposes one token after the last row of h (B, n, D)."""
        logits = self.main(h[:, -1])  # (B, V_s)
        return sample(0, logits)[:, None], logits[:, None]
