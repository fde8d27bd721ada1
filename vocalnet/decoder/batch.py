"""A padded training batch: projected text and speech inputs, their positions and their masks.

Letters: B batch, S the longest speech of the batch in tokens, L_t text columns (begin included), L_s speech rows (start
token included), T = L_t + L_s, D_s talker width, M MTP modules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vocalnet.decoder.backbone import Rows, attention_bias
from vocalnet.decoder.heads.contract import Teacher
from vocalnet.masks import attention_mask

if TYPE_CHECKING:
    from vocalnet.decoder.talker import Talker

MASKS = ("full", "streaming")
MaskRule = Callable[..., Tensor]  # as masks.attention_mask
Masks = tuple[Tensor, list[Tensor]]  # visible (1 + M or 1, B, T, T); what attention adds, (B, 1, T, T) each
MaskBuilder = Callable[..., Masks]  # as `build_masks`


@dataclass(frozen=True, slots=True)
class BatchRules:
    """How a batch is laid out; the arguments of `Talker.loss` of the same names.

    `chunks` are C_t and C_s of the streaming mask; None: those that the talker was trained with. `build_masks` stands
    in for the function below, so that it can be measured.
    """

    mask: str | Sequence[str] = "full"
    positions: str = "sample"
    mask_rule: str | None = None
    inputs: Sequence[Tensor] | None = None
    chunks: tuple[int, int] | None = None
    build_masks: MaskBuilder | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What the decoder and the head get."""

    teacher: Teacher
    tokens: Tensor  # (B, S), padded
    ends: Tensor  # (B,) speech tokens of each sample
    visible: Tensor  # (1 + M, B, T, T)


def collate(talker: Talker, hidden: Sequence[Tensor], speech_tokens: Sequence[Tensor], rules: BatchRules) -> Batch:
    """Pads, projects and embeds a batch and builds its masks; nothing that came in is written to.

    Args:
        talker: whose projector, embedding and config are used.
        hidden: LLM states, (L_t, D) each.
        speech_tokens: (L_s,) each; negative entries are padding.
        rules: the layout.

    Raises:
        ValueError: the lists differ in length or are empty, or a rule is unknown.
    """
    if not hidden or len(hidden) != len(speech_tokens):
        raise ValueError(f"a batch needs as many texts as speech samples; got {len(hidden)} and {len(speech_tokens)}")
    config, head, device = talker.config, talker.head, talker.device
    units, entering = (
        [tokens[tokens >= 0].to(device, torch.long) for tokens in samples]
        for samples in (speech_tokens, speech_tokens if rules.inputs is None else rules.inputs)
    )
    if [len(unit) for unit in entering] != [len(unit) for unit in units]:
        raise ValueError("every sample of `inputs` must be as long as its speech tokens")
    ends = torch.tensor([len(unit) for unit in units], device=device)
    n_text = torch.tensor([1 + len(text) for text in hidden], device=device)
    tokens = pad_sequence(units, batch_first=True, padding_value=config.pad_id)  # (B, S)
    B, S = tokens.shape

    text = talker.project(pad_sequence(list(hidden), batch_first=True).to(talker.embedding.weight))  # (B, L_t - 1, D_s)
    begin = talker.embedding.weight[config.bos_id].expand(B, 1, -1)
    heard = pad_sequence(entering, batch_first=True, padding_value=config.pad_id)  # (B, S)
    start = tokens.new_full((B, head.stride), config.sos_id)
    fill = tokens.new_full((B, -S % head.stride), config.pad_id)
    speech = head.embed(talker.embedding, torch.cat([start, heard, fill], 1))  # (B, L_s, D_s)
    inputs = torch.cat([begin, text, speech], 1)  # (B, T, D_s)

    n_speech = 1 + (ends + head.stride - 1) // head.stride
    visible, biases = (rules.build_masks or build_masks)(talker, n_text, n_speech, rules, inputs.dtype)
    cos, sin = talker.rotation(_positions(talker, n_text, speech.shape[1], rules.positions))
    rows = tuple(Rows(cos, sin, biases[min(depth, len(biases) - 1)]) for depth in range(1 + head.n_depths))
    teacher = Teacher(inputs, 1 + text.shape[1], rows)
    return Batch(teacher, tokens, ends, visible.expand(1 + head.n_depths, -1, -1, -1))


def build_masks(
    talker: Talker,
    n_text: Tensor,
    n_speech: Tensor,
    rules: BatchRules,
    dtype: torch.dtype,
    mask_rule: MaskRule = attention_mask,
) -> Masks:
    """Returns the masks of all depths, one where the rule gives every depth the same.

    Args:
        talker: whose config says what is not in `rules`.
        n_text: text positions of each sample, begin included, (B,).
        n_speech: its speech rows, (B,).
        rules: the layout.
        dtype: of what attention adds.
        mask_rule: what is visible.

    Raises:
        ValueError: a mask is unknown, or there is not one per sample.
    """
    visible = _visible(talker, n_text, n_speech, rules, mask_rule)
    return visible, [attention_bias(_with_begin(mask)[:, None], dtype) for mask in visible]


def _visible(talker: Talker, n_text: Tensor, n_speech: Tensor, rules: BatchRules, mask_rule: MaskRule) -> Tensor:
    """Returns the masks of all depths, (1 + M, B, T, T), or (1, B, T, T) where the rule gives every depth the same."""
    config, head = talker.config, talker.head
    names = [rules.mask] * len(n_text) if isinstance(rules.mask, str) else list(rules.mask)
    if len(names) != len(n_text) or not set(names) <= set(MASKS):
        raise ValueError('mask must be "full" or "streaming", or a list with one of them per sample')
    is_streaming = torch.tensor([name == "streaming" for name in names], device=n_text.device)
    rule = rules.mask_rule or config.mask_rule
    chunks = rules.chunks or (config.text_chunk, config.speech_chunk)
    depths = range(1 + head.n_depths if rule == "released" else 1)
    masks = [mask_rule(n_text, n_speech, is_streaming, rule, *chunks, depth, head.stride) for depth in depths]
    return torch.stack(masks)


def _positions(talker: Talker, n_text: Tensor, n_speech: int, rule: str) -> Tensor:
    """Returns rotary positions (B, T) of samples with `n_text` (B,) text positions and up to `n_speech` rows."""
    if rule not in ("sample", "batch"):
        raise ValueError(f'positions is {rule!r}; choose "sample" or "batch"')
    longest = int(n_text.max())
    if rule == "batch":
        first = torch.full_like(n_text, longest)
    elif talker.config.behaviour == "released":
        first = n_text
    else:
        first = torch.full_like(n_text, talker.config.speech_offset)
    text = torch.arange(longest, device=n_text.device).expand(len(n_text), -1)
    speech = first[:, None] + torch.arange(n_speech, device=n_text.device)
    return torch.cat([text, speech], 1)


def _with_begin(visible: Tensor) -> Tensor:
    """Lets rows that see nothing (padding) see the begin token, so that attention stays finite; no loss reads them."""
    is_blind = ~visible.any(-1)  # (B, T)
    return torch.cat([visible[..., :1] | is_blind[..., None], visible[..., 1:]], -1)
