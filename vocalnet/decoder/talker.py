"""The talker: LLM hidden states in, speech tokens out (paper section 3, Figure 1 right).

Letters: B batch, L_t text positions, L_s speech tokens, S the longest L_s of a batch, T all columns of a padded batch,
D and D_s LLM and talker width, M MTP modules, V_s speech vocabulary. Group heads have G where MTP heads have 1 + M.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vocalnet.adaptor import Adaptor
from vocalnet.config import TalkerConfig
from vocalnet.decoder.backbone import Rows, Stack, initialise, rotation
from vocalnet.decoder.batch import Batch, BatchRules, MaskBuilder, collate
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.heads.contract import IGNORE, Head
from vocalnet.decoder.keys import our_key
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.policies import find_policy
from vocalnet.decoder.session import BatchSession, ReleasedSession, Spoken, TalkerSession
from vocalnet.graphs import Graphable
from vocalnet.masks import check_rule
from vocalnet.tokens import LLAMA_END_IDS

BEHAVIOURS = ("own", "released")


@dataclass(frozen=True, slots=True)
class Loss:
    """The talker's training loss and what it was computed from."""

    total: Tensor  # scalar, differentiable: heads weighted by lambda^k (Eq. 7)
    heads: Tensor  # (1 + M,) each head's mean over its own targets, 0 where it has none
    labels: Tensor  # (1 + M, B, S + 1), -100 where there is no target
    visible: Tensor  # (1 + M, B, T, T) what the rows of each depth see
    accuracy: Tensor  # (1 + M,) share of targets that are each head's first choice


class Projector(nn.Module):
    """Speech projector: causal Llama layers, after one linear layer where the LLM and the talker differ in width."""

    def __init__(self, config: TalkerConfig) -> None:
        super().__init__()
        self.llm_dim = config.llm_dim
        is_equal = config.llm_dim == config.dim
        self.inlet = nn.Identity() if is_equal else nn.Linear(config.llm_dim, config.dim)
        self.stack = Stack(config, config.n_projector_layers)

    def forward(self, hidden: Tensor, rows: Rows) -> Tensor:
        """Maps LLM states (B, n, D) to talker inputs (B, n, D_s).

        Raises:
            ValueError: the states are not as wide as this talker's LLM.
        """
        width = hidden.shape[-1]
        if width != self.llm_dim:
            raise ValueError(f"hidden states are {width} wide; this talker takes its own LLM's, {self.llm_dim} wide")
        return self.stack(self.inlet(hidden), rows)


class Talker(Graphable):
    """Speech projector, speech decoder and head, with the downsample adaptor where a checkpoint carries both."""

    def __init__(self, config: TalkerConfig, adaptor: Adaptor | None = None) -> None:
        """Builds a talker with fresh weights.

        Raises:
            ValueError: head, behaviour or mask rule is unknown, or two of them do not go together.
        """
        super().__init__()
        if config.head not in HEADS:
            raise ValueError(f"unknown head {config.head!r}; available: {', '.join(HEADS)}")
        if config.behaviour not in BEHAVIOURS:
            raise ValueError(f"unknown behaviour {config.behaviour!r}; available: {', '.join(BEHAVIOURS)}")
        if check_rule(config.mask_rule) == "released" and config.behaviour == "own":
            raise ValueError('mask_rule "released" shifts the text of the modules; it needs behaviour "released"')
        self.config = config
        self.adaptor = adaptor
        self.embedding = nn.Embedding(config.vocab_size, config.dim)
        self.projector = Projector(config)
        self.decoder = Stack(config, config.n_layers)
        self.head: Head = HEADS[config.head](config)
        if config.behaviour == "released" and self.head.stride > 1:
            raise ValueError(f'the published decoding cuts groups in two; {config.head!r} needs behaviour "own"')
        initialise(self, config.n_layers)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.weight.device

    def parameter(self, key: str) -> nn.Parameter:
        """Returns a weight by its published key, such as "speech_generator.embedding.weight", or by ours.

        Raises:
            ValueError: there is no such weight.
        """
        weights = dict(self.named_parameters())
        ours = our_key(key)
        if ours not in weights:
            raise ValueError(f"this talker has no weight {key!r}; state_dict() lists them")
        return weights[ours]

    def adapt(self, features: Tensor) -> Tensor:
        """Maps encoder features (B, T_e, D_e) to LLM embeddings (B, T_e // rate, D) (Eq. 1).

        Raises:
            ValueError: the checkpoint came without an adaptor.
        """
        if self.adaptor is None:
            raise ValueError("this talker's folder carries no adaptor; load the whole model to embed speech")
        return self.adaptor(features)

    def project(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Maps LLM states (B, L_t, D) to talker inputs (B, L_t, D_s), causally; rows from `lengths` (B,) on are 0."""
        column = torch.arange(hidden.shape[1], device=hidden.device)
        x = self.projector(hidden, Rows(*self.rotation(column[None]), is_causal=True))  # (B, L_t, D_s)
        return x if lengths is None else x * (column < lengths[:, None])[..., None]

    def rotation(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the rotary cosines and sines of positions (B or 1, n), each (B or 1, 1, n, d)."""
        config = self.config
        return rotation(positions, config.dim // config.n_heads, config.rope_theta, self.embedding.weight.dtype)

    def text_rows(
        self,
        llm_hidden: Tensor,
        labels: Tensor,
        text_end: Tensor | None = None,
        end_ids: Sequence[int] = LLAMA_END_IDS,
    ) -> Tensor:
        """Returns the LLM states that the talker is trained on, (L_t, D).

        Args:
            llm_hidden: LLM states of prompt and answer, (L, D).
            labels: -100 outside the answer, text ids inside, (L,).
            text_end: embedding of the text end token, replaces the last kept row, (1, D).
            end_ids: labels that are dropped as well; a family's own end token, which need not be Llama's.
        """
        is_kept = labels != IGNORE
        for end_id in end_ids:
            is_kept = is_kept & (labels != end_id)
        rows = llm_hidden[is_kept]
        return rows if text_end is None else torch.cat([rows[:-1], text_end.view(1, -1).to(rows)])

    def loss(
        self,
        hidden: Sequence[Tensor],
        speech_tokens: Sequence[Tensor],
        mask: str | Sequence[str] = "full",
        positions: str = "sample",
        mask_rule: str | None = None,
        inputs: Sequence[Tensor] | None = None,
    ) -> Loss:
        """Returns the multi-token prediction loss of a batch (Eq. 7); inputs are never written to.

        Args:
            hidden: LLM states of each sample, (L_t, D).
            speech_tokens: its speech tokens without start and end, (L_s,); negative entries are padding.
            mask: "full" or "streaming", or one of them per sample.
            positions: "sample": a sample's positions do not depend on the batch; "batch": speech starts after the
                longest text of the batch, as the published training code had it.
            mask_rule: reading of the streaming mask; None: the config's.
            inputs: tokens that enter in place of the speech tokens, (L_s,) each, which stay the targets; with some of
                them wrong, training is more like decoding. None: the speech tokens, as published.
        """
        batch = collate(self, hidden, speech_tokens, BatchRules(mask, positions, mask_rule, inputs))
        labels = self.head.targets(batch.tokens, batch.ends, self.config.eos_id)  # (1 + M, B, S + 1)
        losses, accuracies = [], []
        for logits, target in self._labelled(batch, labels):
            n_targets = max(len(target), 1)
            losses.append(F.cross_entropy(logits, target, reduction="sum") / n_targets)
            accuracies.append((logits.detach().argmax(-1) == target).sum() / n_targets)
        heads = torch.stack(losses)
        weights = heads.new_tensor(self.head.weights(self.config.loss_decay))
        return Loss((heads * weights).sum(), heads.detach(), labels, batch.visible, torch.stack(accuracies))

    def labelled_logits(
        self,
        hidden: Sequence[Tensor],
        speech_tokens: Sequence[Tensor],
        mask: str | Sequence[str] = "full",
        inputs: Sequence[Tensor] | None = None,
        build_masks: MaskBuilder | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields head after head the logits (n, V_s) of the rows that have a target, and these targets (n,).

        For a loss that is weighted over more than one batch. Arguments as for `loss` and `BatchRules`.
        """
        batch = collate(self, hidden, speech_tokens, BatchRules(mask, inputs=inputs, build_masks=build_masks))
        yield from self._labelled(batch, self.head.targets(batch.tokens, batch.ends, self.config.eos_id))

    def _labelled(self, batch: Batch, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for k, state in enumerate(self._states(batch)):
            is_target = labels[k] != IGNORE  # (B, S + 1)
            yield self.head.project(k, state[is_target]).float(), labels[k][is_target]

    def logits(
        self,
        hidden: Sequence[Tensor],
        speech_tokens: Sequence[Tensor],
        mask: str | Sequence[str] = "full",
        positions: str = "sample",
        mask_rule: str | None = None,
    ) -> Tensor:
        """Returns teacher-forced logits (1 + M, B, S + 1, V_s): row k, column i predicts token i + 1 + k.

        Arguments as for `loss`.
        """
        batch = collate(self, hidden, speech_tokens, BatchRules(mask, positions, mask_rule))
        return torch.stack([self.head.project(k, state) for k, state in enumerate(self._states(batch))])

    def default_options(self, mask: str = "full") -> DecodeOptions:
        """Returns how these weights are decoded if nothing else is said: the published way, or 3 tokens per step."""
        K = max(self.head.stride, min(3, self.head.n_heads))
        if self.config.behaviour == "released":
            return DecodeOptions.released(K) if mask == "full" else DecodeOptions.released_streaming(K)
        return DecodeOptions(tokens_per_step=K, mask="full" if mask == "full" else "streaming")

    def generate(
        self, hidden: Tensor | Sequence[Tensor], options: DecodeOptions | None = None, return_logits: bool = False
    ) -> Tensor | tuple[Tensor, Tensor] | list:
        """Decodes whole texts.

        Args:
            hidden: LLM states (1, L_t, D), or a list of (L_t, D) or (1, L_t, D), decoded as one batch.
            options: how; None: `default_options()`.
            return_logits: also return the raw logits of every pick, the end token's too, (n_picked, V_s).

        Returns:
            Tokens after the start token, less a final end token, (n,); with logits a pair; for a list a list of them.
        """
        is_single = isinstance(hidden, Tensor)
        results: list = []
        for spoken in self.decode([hidden] if isinstance(hidden, Tensor) else hidden, options):
            tokens = torch.tensor(spoken.tokens, dtype=torch.long)
            results.append((tokens, spoken.logits()) if return_logits else tokens)
        return results[0] if is_single else results

    def decode(self, hidden: Sequence[Tensor], options: DecodeOptions | None = None) -> list[Spoken]:
        """Decodes texts, (L_t, D) or (1, L_t, D) each, and returns tokens, logits and statistics of each.

        All texts run as one batch, but for adaptive policies, whose answers step at their own pace: one after another.
        The published streaming has state of its own per answer: there, each text is pushed C_t positions at a time.

        Raises:
            ValueError: there is no text, or a tensor holds several.
        """
        options = options or self.default_options()
        if any(text.dim() == 3 and len(text) != 1 for text in hidden):
            raise ValueError("a tensor (1, L_t, D) holds one text: give several as a list, each of its own length")
        texts = [text.reshape(-1, text.shape[-1]) for text in hidden]
        if not texts:
            raise ValueError("nothing to decode: give at least one text")
        if len(texts) > 1 and find_policy(options.policy).is_adaptive:
            return [spoken for text in texts for spoken in self.decode([text], options)]
        if self._is_released_streaming(options):
            return [self._decode_by_chunks(text, options) for text in texts]
        session = BatchSession(self, options, len(texts))
        lengths = torch.tensor([len(text) for text in texts], device=self.device)
        session.run(pad_sequence(texts, batch_first=True), lengths if len(texts) > 1 else None, last=True)
        return session.samples

    def session(self, options: DecodeOptions | None = None) -> TalkerSession:
        """Returns a session that speaks one answer while its text arrives; None: `default_options("streaming")`."""
        options = options or self.default_options("streaming")
        return ReleasedSession(self, options) if self._is_released_streaming(options) else BatchSession(self, options)

    def _is_released_streaming(self, options: DecodeOptions) -> bool:
        return self.config.behaviour == "released" and options.mask == "streaming"

    def _decode_by_chunks(self, text: Tensor, options: DecodeOptions) -> Spoken:
        session = ReleasedSession(self, options)
        C_t = options.chunked(self.config).text_chunk
        n_whole = len(text) - len(text) % C_t
        for start in range(0, n_whole, C_t):
            session.push(text[None, start : start + C_t])
        session.push(text[None, n_whole:], last=True)
        return session.spoken

    def _states(self, batch: Batch) -> list[Tensor]:
        teacher = batch.teacher
        h = self.decoder(teacher.inputs, teacher.rows[0])  # (B, T, D_s)
        return self.head.states(h, teacher)
