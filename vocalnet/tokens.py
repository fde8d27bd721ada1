"""Special tokens and prompt formats of the LLM families; the only file that names ids (speech ids are in the config).

Tokens are looked up by name in the checkpoint's own tokenizer, so a smaller vocabulary of the same family works too. A
family is named by a checkpoint's config (`family`, or the released `model_type`), never guessed from a path.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PLACEHOLDER = "<speech>"  # stands for the audio in a user turn, as in the released data
TOKEN_RATE_HZ = 25  # speech tokens a second

_RELEASED_SYSTEM = (
    "You are a helpful language and speech assistant. You are able to understand the speech content that the user "
    "provides, and assist the user with a variety of tasks using natural language and speech."
)

LLAMA_END_IDS = (128009,)  # <|eot_id|>: the labels that the published data preparation drops, for Qwen too
RELEASED_FILLER = (6324, 4137)  # speech tokens that the published streaming inference says where there is no text

NANO_SPECIAL = ("<|pad|>", "<|user|>", "<|assistant|>", "<|end|>")
NANO_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """How one LLM family is prompted and how its answers end.

    Attributes:
        system: system message of every conversation; "": none.
        end_tokens: any of these ends an answer; empty: the tokenizer's end token.
        text_end_token: its embedding closes the text handed to the talker; None: the tokenizer's end token.
        template_arguments: extra arguments of the chat template.
    """

    system: str
    end_tokens: tuple[str, ...] = ()
    text_end_token: str | None = None
    template_arguments: dict[str, Any] = field(default_factory=dict)


FAMILIES: dict[str, Family] = {
    "nano": Family(system=""),
    # any other causal LM with a chat template
    "generic": Family(system=_RELEASED_SYSTEM),
    # <|eot_id|> is 128009; the released prompts were written on this date (newer templates write today's)
    "llama3": Family(_RELEASED_SYSTEM, ("<|eot_id|>",), "<|eot_id|>", {"date_string": "26 Jul 2024"}),
    # <|im_end|> (151645) ends an answer, <|endoftext|> (151643) closes the talker's text
    "qwen2": Family("You are Qwen, created by Alibaba Cloud. " + _RELEASED_SYSTEM, ("<|im_end|>",), "<|endoftext|>"),
}


def family(name: str) -> Family:
    """Returns a row of FAMILIES.

    Raises:
        ValueError: there is no such family.
    """
    if name not in FAMILIES:
        raise ValueError(f"Unknown LLM family {name!r}. Available: {', '.join(FAMILIES)}")
    return FAMILIES[name]
