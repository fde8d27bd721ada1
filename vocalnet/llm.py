"""The language model: any transformers causal LM; prompts with audio in them.

What differs between LLM families comes from tokens.py. Shapes: L prompt positions, L_a audio embeddings, D width.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from vocalnet.tokens import PLACEHOLDER, Family


@dataclass(frozen=True)
class Message:
    """One turn. A user's content may hold PLACEHOLDER where the audio stands."""

    role: str
    content: str


def build_llm(config: dict[str, Any]) -> PreTrainedModel:
    """Returns an untrained causal LM of a transformers config given as a dict with its "model_type"."""
    values = dict(config)
    model_config = AutoConfig.for_model(values.pop("model_type"), **values)
    return AutoModelForCausalLM.from_config(model_config, attn_implementation="sdpa")


def backbone(llm: PreTrainedModel) -> nn.Module:
    """Returns the LLM without its head; it gives `last_hidden_state`."""
    return getattr(llm, llm.base_model_prefix)


def cache_argument(llm: PreTrainedModel) -> str:
    """Returns the name under which an LLM takes its keys and values: "cache", or as earlier releases called it."""
    return "cache" if "cache" in inspect.signature(type(backbone(llm)).forward).parameters else "past_key_values"


def embeddings(llm: PreTrainedModel) -> Tensor:
    """Returns the table of text embeddings (V_t, D)."""
    weight = llm.get_input_embeddings().weight
    assert isinstance(weight, Tensor)
    return weight


def end_ids(tokenizer: PreTrainedTokenizerBase, family: Family) -> tuple[int, ...]:
    """Returns the token ids that end an answer."""
    return tuple(token_id(tokenizer, token) for token in family.end_tokens) or (tokenizer.eos_token_id,)


def token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    """Returns the id of a special token.

    Raises:
        ValueError: the tokenizer has no such token.
    """
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or tokenizer.convert_ids_to_tokens(found) != token:
        raise ValueError(
            f"The tokenizer has no token {token}. Put the tokenizer files of the checkpoint's own LLM there."
        )
    return found


def text_end_embedding(llm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, family: Family) -> Tensor:
    """Returns the embedding (1, D) that closes the text handed to the talker."""
    token = family.text_end_token
    return embeddings(llm)[tokenizer.eos_token_id if token is None else token_id(tokenizer, token)][None]


def user_content(prompt: str = "", text: str | None = None) -> str:
    """Returns the content of a user turn: an optional instruction, then the audio's place (or a typed question)."""
    body = PLACEHOLDER if text is None else text.replace(PLACEHOLDER, "")
    return f"{prompt.strip()} {body}" if prompt.strip() else body


def prompt_pieces(tokenizer: PreTrainedTokenizerBase, family: Family, messages: Sequence[Message]) -> list[list[int]]:
    """Returns the prompt's token ids, cut at every PLACEHOLDER: one piece more than there are audios."""
    turns = [{"role": "system", "content": family.system}] if family.system else []
    turns += [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **family.template_arguments)
    return [tokenizer.encode(piece, add_special_tokens=False) for piece in str(text).split(PLACEHOLDER)]


def embed_prompt(llm: PreTrainedModel, pieces: Sequence[Sequence[int]], audio: Sequence[Tensor]) -> Tensor:
    """Returns prompt embeddings (1, L, D): text pieces with audio embeddings (L_a, D) between them."""
    assert len(pieces) == len(audio) + 1, "one audio stands between two pieces"
    embed, table = llm.get_input_embeddings(), embeddings(llm)

    def embedded(ids: Sequence[int]) -> Tensor:
        return embed(torch.tensor(ids, dtype=torch.long, device=table.device))

    rows = [embedded(pieces[0])]
    for sound, piece in zip(audio, pieces[1:], strict=True):
        rows += [sound.to(table.dtype), embedded(piece)]
    return torch.cat(rows)[None]  # (1, L, D)


def speech_mask(pieces: Sequence[Sequence[int]], audio: Sequence[Tensor]) -> Tensor:
    """Returns which rows of `embed_prompt` are audio embeddings, booleans (L,) on the CPU."""
    rows = [torch.zeros(len(pieces[0]), dtype=torch.bool)]
    for sound, piece in zip(audio, pieces[1:], strict=True):
        rows += [torch.ones(len(sound), dtype=torch.bool), torch.zeros(len(piece), dtype=torch.bool)]
    return torch.cat(rows)
