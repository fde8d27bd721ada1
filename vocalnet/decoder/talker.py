"""The talker: LLM hidden states in, speech tokens out (paper section 3, Figure 1 right).

Letters: B batch, L_t text positions, L_s speech tokens, S the longest L_s of a batch, T all columns of a padded batch, D and
D_s LLM and talker width, M MTP modules, K heads, V_s speech vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vocalnet.adaptor import Adaptor
from vocalnet.config import TalkerConfig
from vocalnet.decoder.backbone import Rows, Stack, initialise, rotation
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.heads.contract import IGNORE, Head, Teacher
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.session import BatchSession, TalkerSession
from vocalnet.masks import attention_mask, check_rule


@dataclass(frozen=True, slots=True)
class Loss:
    """The talker's training loss and what it was computed from."""

    total: Tensor  # scalar, differentiable: heads weighted by lambda^k (Eq. 7)
    heads: Tensor  # (1 + M,) each head's mean over its own targets, 0 where it has none
    labels: Tensor  # (1 + M, B, S + 1), -100 where there is no target
    visible: Tensor  # (1 + M, B, T, T) what each depth's rows saw
    accuracy: Tensor  # (1 + M,) share of targets that are each head's first choice


@dataclass(frozen=True, slots=True)
class Batch:
    """A padded training batch before the decoder."""

    inputs: Tensor  # (B, T, D_s)
    tokens: Tensor  # (B, S), padded
    ends: Tensor  # (B,) speech tokens of each sample
    n_text: int  # text columns, begin included
    rows: tuple[Rows, ...]  # by depth
    visible: Tensor  # (1 + M, B, T, T)


class Projector(nn.Module):
    """Speech projector: causal Llama layers, after one linear layer where the LLM and the talker differ in width."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        is_equal = config.llm_dim == config.dim
        self.inlet = nn.Identity() if is_equal else nn.Linear(config.llm_dim, config.dim)
        self.stack = Stack(
            config.n_projector_layers, config.dim, config.ffn_dim, config.n_heads, config.norm_eps, config.dropout
        )

    def forward(self, hidden: Tensor, rows: Rows) -> Tensor:
        """Maps LLM states (B, n, D) to talker inputs (B, n, D_s)."""
        return self.stack(self.inlet(hidden), rows)


class Talker(nn.Module):
    """Speech projector, speech decoder and head, with the downsample adaptor where a checkpoint carries both."""

    def __init__(self, config: TalkerConfig, adaptor: Adaptor | None = None) -> None:
        """Builds a talker with fresh weights.

        Raises:
            ValueError: the head or the mask rule is unknown, or the rule has no inference that follows it.
        """
        super().__init__()
        if config.head not in HEADS:
            raise ValueError(f"unknown head {config.head!r}; available: {', '.join(HEADS)}")
        if check_rule(config.mask_rule) == "released" and config.behaviour == "own":
            raise ValueError('mask_rule "released" shifts the modules\' text; it needs behaviour "released"')
        self.config = config
        self.adaptor = adaptor
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.projector = Projector(config)
        self.decoder = Stack(
            config.n_layers, config.dim, config.ffn_dim, config.n_heads, config.norm_eps, config.dropout
        )
        self.head: Head = HEADS[config.head](config)  # type: ignore[assignment]
        initialise(self, config.n_layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def adapt(self, features: Tensor) -> Tensor:
        """Maps encoder features (B, T_e, D_e) to LLM embeddings (B, T_e // rate, D) (Eq. 1).

        Raises:
            ValueError: the checkpoint came without an adaptor.
        """
        if self.adaptor is None:
            raise ValueError("this talker folder carries no adaptor; load the whole model for speech input")
        return self.adaptor(features)

    def project(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Maps LLM states (B, L_t, D) to talker inputs (B, L_t, D_s), causally; rows from `lengths` (B,) on are zeroed."""
        B, L_t, _ = hidden.shape
        column = torch.arange(L_t, device=hidden.device)
        x = self.projector(hidden, Rows(*self._rotation(column[None]), is_causal=True))  # (B, L_t, D_s)
        return x if lengths is None else x * (column < lengths[:, None])[..., None]

    def text_rows(
        self, llm_hidden: Tensor, labels: Tensor, text_end: Tensor | None = None, end_ids: Sequence[int] = (128009,)
    ) -> Tensor:
        """Returns the rows that the talker is trained on, (L_t, D).

        Args:
            llm_hidden: LLM states of prompt and answer, (L, D).
            labels: -100 outside the answer, text ids inside, (L,).
            text_end: embedding of the text end token, replaces the last kept row, (1, D).
            end_ids: labels that are dropped as well.
        """
        is_kept = labels != IGNORE
        for end_id in end_ids:
            is_kept &= labels != end_id
        rows = llm_hidden[is_kept]
        return rows if text_end is None else torch.cat([rows[:-1], text_end.view(1, -1).to(rows)])

    def loss(
        self,
        hidden: Sequence[Tensor],
        speech_tokens: Sequence[Tensor],
        mask: str | Sequence[str] = "full",
        positions: str = "sample",
        mask_rule: str | None = None,
    ) -> Loss:
        """Returns the multi-token prediction loss of a batch (Eq. 7); inputs are never written to.

        Args:
            hidden: LLM states of each sample, (L_t, D).
            speech_tokens: its speech tokens without start and end, (L_s,); negative entries are padding.
            mask: "full" or "streaming", or one of them per sample.
            positions: "sample": a sample's positions do not depend on the batch; "batch": speech starts after the
                longest text of the batch, as the published training code had it.
            mask_rule: reading of the streaming mask, None: the config's.
        """
        batch = self._collate(hidden, speech_tokens, mask, positions, mask_rule)
        labels = self.head.targets(batch.tokens, batch.ends, self.config.eos_id)  # (K, B, S + 1)
        losses, accuracies = [], []
        for k, state in enumerate(self._states(batch)):
            is_target = labels[k] != IGNORE  # (B, S + 1)
            target = labels[k][is_target]  # (n,)
            logits = self.head.project(k, state[is_target])  # (n, V_s): only rows with a target
            n_targets = max(len(target), 1)
            losses.append(F.cross_entropy(logits.float(), target, reduction="sum") / n_targets)
            accuracies.append((logits.detach().argmax(-1) == target).sum() / n_targets)
        heads = torch.stack(losses)
        weights = heads.new_tensor(self.head.weights(self.config.loss_decay))
        return Loss((heads * weights).sum(), heads.detach(), labels, batch.visible, torch.stack(accuracies))

    def logits(
        self,
        hidden: Sequence[Tensor],
        speech_tokens: Sequence[Tensor],
        mask: str | Sequence[str] = "full",
        positions: str = "sample",
        mask_rule: str | None = None,
    ) -> Tensor:
        """Returns teacher-forced logits (1 + M, B, S + 1, V_s): row k, column i predicts token i + 1 + k. Arguments as `loss`."""
        batch = self._collate(hidden, speech_tokens, mask, positions, mask_rule)
        return torch.stack([self.head.project(k, state) for k, state in enumerate(self._states(batch))])

    def generate(
        self, hidden: Tensor | Sequence[Tensor], options: DecodeOptions | None = None, return_logits: bool = False
    ) -> Tensor | tuple[Tensor, Tensor] | list:
        """Decodes whole texts.

        Args:
            hidden: LLM states (1, L_t, D), or a list of (L_t, D) or (1, L_t, D), decoded as one batch.
            options: how; None: `DecodeOptions()`.
            return_logits: also return the raw logits of every pick, the end token's too, (n_picked, V_s).

        Returns:
            Tokens after the start token, less a final end token, (n,); with logits a pair; for a list a list.
        """
        options = options or DecodeOptions()
        is_single = isinstance(hidden, Tensor)
        texts = [text.reshape(-1, text.shape[-1]) for text in ([hidden] if is_single else hidden)]
        session = BatchSession(self, options, len(texts))
        lengths = torch.tensor([len(text) for text in texts], device=self.device)
        session.run(pad_sequence(texts, batch_first=True), lengths if len(texts) > 1 else None, last=True)
        results: list = []
        for sample in session.samples:
            tokens = torch.tensor(sample.tokens, dtype=torch.long, device=self.device)
            logits = torch.stack(sample.logits)
            results.append((tokens, logits) if return_logits else tokens)
        return results[0] if is_single else results

    def session(self, options: DecodeOptions | None = None) -> TalkerSession:
        """Returns a session that speaks one answer while its text arrives."""
        return BatchSession(self, options or DecodeOptions(mask="streaming"))

    def _states(self, batch: Batch) -> list[Tensor]:
        h = self.decoder(batch.inputs, batch.rows[0])  # (B, T, D_s)
        return self.head.states(h, Teacher(batch.inputs, batch.n_text, batch.rows))

    def _collate(
        self,
        hidden: Sequence[Tensor],
        speech_tokens: Sequence[Tensor],
        mask: str | Sequence[str],
        positions: str,
        mask_rule: str | None,
    ) -> Batch:
        """Pads a batch, projects and embeds it, and builds its masks; arguments as `loss`."""
        config, head, device = self.config, self.head, self.device
        is_streaming = _is_streaming(mask, len(hidden), device)
        n_text = torch.tensor([1 + len(text) for text in hidden], device=device)
        units = [tokens[tokens >= 0] for tokens in speech_tokens]
        ends = torch.tensor([len(unit) for unit in units], device=device)
        tokens = pad_sequence(units, batch_first=True, padding_value=config.pad_id)  # (B, S)
        B, S = tokens.shape
        text = self.project(pad_sequence(list(hidden), batch_first=True))  # (B, L_t, D_s)
        begin = self.embedding.weight[config.bos_id].expand(B, 1, -1)
        start = tokens.new_full((B, head.stride), config.sos_id)
        fill = tokens.new_full((B, -S % head.stride), config.pad_id)
        speech = head.embed(self.embedding, torch.cat([start, tokens, fill], 1))  # (B, L_s, D_s)
        inputs = torch.cat([begin, text, speech], 1)  # (B, T, D_s)

        n_speech = 1 + (ends + head.stride - 1) // head.stride
        rule = mask_rule or config.mask_rule
        depths = range(1 + head.n_depths if rule == "released" else 1)
        visible = torch.stack(
            [
                attention_mask(
                    n_text, n_speech, is_streaming, rule, config.text_chunk, config.speech_chunk, depth, head.stride
                )
                for depth in depths
            ]
        )  # (depths, B, T, T)
        visible = visible.expand(1 + head.n_depths, -1, -1, -1)  # (1 + M, B, T, T)
        cos, sin = self._rotation(self._positions(n_text, speech.shape[1], positions))
        usable = [_with_begin(visible[depth])[:, None] for depth in depths]  # (B, 1, T, T)
        rows = tuple(Rows(cos, sin, usable[min(depth, len(usable) - 1)]) for depth in range(1 + head.n_depths))
        return Batch(inputs, tokens, ends, 1 + text.shape[1], rows, visible)

    def _positions(self, n_text: Tensor, n_speech: int, positions: str) -> Tensor:
        """Returns rotary positions (B, T) of a padded batch whose samples have `n_text` (B,) text positions."""
        if positions not in ("sample", "batch"):
            raise ValueError(f'positions is {positions!r}; choose "sample" or "batch"')
        longest = int(n_text.max())
        if positions == "batch":
            first = torch.full_like(n_text, longest)
        elif self.config.behaviour == "released":
            first = n_text
        else:
            first = torch.full_like(n_text, self.config.speech_offset)
        text = torch.arange(longest, device=n_text.device).expand(len(n_text), -1)
        speech = first[:, None] + torch.arange(n_speech, device=n_text.device)
        return torch.cat([text, speech], 1)

    def _rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        return rotation(positions, config.dim // config.n_heads, config.rope_theta, self.embedding.weight.dtype)


def _is_streaming(mask: str | Sequence[str], batch: int, device: torch.device) -> Tensor:
    names = [mask] * batch if isinstance(mask, str) else list(mask)
    if len(names) != batch or not set(names) <= {"full", "streaming"}:
        raise ValueError('mask must be "full" or "streaming", or a list with one of them per sample')
    return torch.tensor([name == "streaming" for name in names], device=device)


def _with_begin(visible: Tensor) -> Tensor:
    """Lets rows that see nothing (padding) see the begin token, so that attention stays finite; no loss reads them."""
    is_blind = ~visible.any(-1)  # (B, T)
    return torch.cat([visible[..., :1] | is_blind[..., None], visible[..., 1:]], -1)
