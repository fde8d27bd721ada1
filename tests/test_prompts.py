"""Prompts of the published families, token by token: small tokenizers with the families' own ids and chat formats."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from vocalnet.llm import Message, end_ids, prompt_pieces, text_end_embedding, user_content
from vocalnet.tokens import LLAMA_END_IDS, family

SENTENCE = (
    "You are a helpful language and speech assistant. You are able to understand the speech content that the user "
    "provides, and assist the user with a variety of tasks using natural language and speech."
)
# as the families' templates write a system and a user turn; other dates and system messages are what must not appear
LLAMA_TEMPLATE = (
    "<|begin_of_text|>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.role == 'system' %}Cutting Knowledge Date: December 2023\n"
    "Today Date: {{ date_string | default('1 Jan 2031') }}\n\n{% endif %}{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
QWEN_TEMPLATE = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WORD = r"\n\n|\n| ?[^\s]+"
LLAMA_IDS = {
    "<|begin_of_text|>": 128000,
    "<|start_header_id|>": 128006,
    "<|end_header_id|>": 128007,
    "<|eot_id|>": 128009,
    "system": 9125,
    "user": 882,
    "assistant": 78191,
    "\n\n": 271,
    "\n": 198,
}
QWEN_IDS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "system": 8948,
    "user": 872,
    "assistant": 77091,
    "\n": 198,
}
LLAMA_SYSTEM = f"Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n{SENTENCE}"
QWEN_SYSTEM = f"You are Qwen, created by Alibaba Cloud. {SENTENCE}"


def make_tokenizer(ids: dict[str, int], text: str, template: str) -> PreTrainedTokenizerFast:
    """Returns a tokenizer with these ids; the words of `text` get others."""
    words = sorted(set(re.findall(WORD, text)) - set(ids))
    vocab = ids | {word: 1000 + n for n, word in enumerate(words)} | {"<unk>": 0}
    model = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Split(Regex(WORD), "isolated")
    special = [token for token in ids if token.startswith("<|")]
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=model, additional_special_tokens=special)
    tokenizer.chat_template = template
    return tokenizer


def asked(tokenizer: PreTrainedTokenizerFast, name: str) -> list[list[int]]:
    return prompt_pieces(tokenizer, family(name), [Message("user", user_content())])


def test_llama() -> None:
    tokenizer = make_tokenizer(LLAMA_IDS, LLAMA_SYSTEM, LLAMA_TEMPLATE)
    words = [tokenizer.vocab[word] for word in re.findall(WORD, LLAMA_SYSTEM)]
    before, after = asked(tokenizer, "llama3")
    assert before == [128000, 128006, 9125, 128007, 271, *words, 128009, 128006, 882, 128007, 271]
    assert after == [128009, 128006, 78191, 128007, 271]


def test_qwen() -> None:
    tokenizer = make_tokenizer(QWEN_IDS, QWEN_SYSTEM, QWEN_TEMPLATE)
    words = [tokenizer.vocab[word] for word in re.findall(WORD, QWEN_SYSTEM)]
    before, after = asked(tokenizer, "qwen2")
    assert before == [151644, 8948, 198, *words, 151645, 198, 151644, 872, 198]
    assert after == [151645, 198, 151644, 77091, 198]


@pytest.mark.parametrize(
    ("name", "ids", "template", "end", "text_end"),
    [
        ("llama3", LLAMA_IDS, LLAMA_TEMPLATE, 128009, 128009),
        ("qwen2", QWEN_IDS, QWEN_TEMPLATE, 151645, 151643),
    ],
)
def test_what_ends_an_answer_and_what_closes_the_talkers_text(name, ids, template, end, text_end) -> None:
    tokenizer = make_tokenizer(ids, SENTENCE, template)
    assert end_ids(tokenizer, family(name)) == (end,)
    table = SimpleNamespace(weight=torch.arange(152_000.0)[:, None])
    llm = SimpleNamespace(get_input_embeddings=lambda: table)
    assert text_end_embedding(llm, tokenizer, family(name)).tolist() == [[text_end]]


def test_the_published_labels_end_with_llamas_token() -> None:
    assert (LLAMA_IDS["<|eot_id|>"],) == LLAMA_END_IDS
