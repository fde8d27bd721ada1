"""Prompts with audio in them, and any causal LM through the same calls."""

import pytest
import torch

from vocalnet.llm import Message, backbone, build_llm, embed_prompt, prompt_pieces, user_content
from vocalnet.tokens import FAMILIES, PLACEHOLDER, family


def test_the_prompt_is_cut_where_the_audio_stands(tiny_model):
    pieces = prompt_pieces(tiny_model.tokenizer, family("nano"), [Message("user", user_content("Transcribe:"))])
    before, after = (tiny_model.tokenizer.decode(piece) for piece in pieces)
    assert before == "<|user|>Transcribe: "
    assert after == "<|end|><|assistant|>"
    assert PLACEHOLDER not in before + after


def test_audio_embeddings_stand_between_the_pieces(tiny_model):
    audio = torch.full((3, 32), 7.0)
    embedded = embed_prompt(tiny_model.llm, [[1, 2], [3]], [audio])
    assert embedded.shape == (1, 6, 32)
    assert torch.equal(embedded[0, 2:5], audio)


def test_unknown_families_are_named():
    with pytest.raises(ValueError, match=r"Unknown LLM family 'gpt'\. Available: " + ", ".join(FAMILIES)):
        family("gpt")


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3", "mistral", "gemma"])
def test_any_causal_lm_gives_states_and_logits(kind):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = build_llm({"model_type": kind, "vocab_size": 50, "num_key_value_heads": 1, "head_dim": 8, **sizes})
    states = backbone(llm)(inputs_embeds=torch.randn(1, 4, 16)).last_hidden_state
    assert llm.get_output_embeddings()(states).shape == (1, 4, 50)
