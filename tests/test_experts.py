"""Speech experts: the text path is the base LLM's bit for bit, and only speech reaches the experts."""

from __future__ import annotations

import copy
import threading

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

from tests.conftest import tiny_config
from vocalnet.checkpoint import describe, load
from vocalnet.decoder.options import DecodeOptions
from vocalnet.experts import (
    EXPERT,
    add_experts,
    checkpoint_contexts,
    decoder_layers,
    experts,
    speech_positions,
    start_experts,
    without_experts,
)
from vocalnet.llm import (
    Message,
    backbone,
    cache_argument,
    embed_prompt,
    end_ids,
    prompt_pieces,
    speech_mask,
    user_content,
)
from vocalnet.model import VocalNet
from vocalnet.training.experts import prepare_experts

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 300,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}
LLMS = ["llama", "qwen2", "qwen3", "phi3", "gemma2", "gpt2"]  # biases, norms per head, joint matrices, Conv1D
L = 12
TEXT = torch.arange(L)[None] % 7 + 3
MASK = torch.zeros(1, L, dtype=torch.bool)
MASK[:, 3:8] = True


def _llm(model_type: str) -> nn.Module:
    torch.manual_seed(5)
    config = AutoConfig.for_model(model_type, **(GPT2 if model_type == "gpt2" else SIZES))
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@pytest.fixture(params=LLMS)
def pair(request):
    """A base LLM and the same with experts that have gone their own way."""
    base = _llm(request.param)
    routed = copy.deepcopy(base)
    add_experts(routed)
    with torch.no_grad():
        for weight in experts(routed).parameters():
            weight.add_(0.1 * torch.randn(weight.shape))
    return base, routed


def _logits(llm, mask=None):
    with speech_positions(mask), torch.no_grad():
        return llm(TEXT).logits


def test_text_is_the_base_llms_bit_for_bit_and_speech_is_not(pair):
    base, routed = pair
    assert torch.equal(_logits(routed), _logits(base))
    assert torch.equal(_logits(routed, torch.zeros_like(MASK)), _logits(base))
    mixed = _logits(routed, MASK)
    torch.testing.assert_close(mixed[:, :3], _logits(base)[:, :3], rtol=1e-4, atol=1e-5)  # before the speech
    assert not torch.allclose(mixed[:, 3:], _logits(base)[:, 3:], atol=1e-3)


def test_fresh_experts_say_what_the_text_weights_say(pair):
    base, routed = pair
    start_experts(routed)
    torch.testing.assert_close(_logits(routed, MASK), _logits(base), rtol=1e-4, atol=1e-5)


def test_the_keys_of_the_base_llm_stay_and_the_experts_stand_beside_attention_and_ffn(pair):
    base, routed = pair
    assert list(without_experts(routed.state_dict())) == list(base.state_dict())
    beside = experts(routed)
    weights = {key for layer in decoder_layers(base) for key in layer.state_dict()}
    assert len(beside) == len(decoder_layers(base)) * len({key.rpartition(".")[0] for key in weights})
    n_layer = sum(p.numel() for p in decoder_layers(base).parameters())
    assert sum(p.numel() for p in beside.parameters()) == n_layer


def test_gradient_of_speech_reaches_experts_only_and_text_learns_nothing(pair):
    base, routed = pair
    routed.requires_grad_(False)
    beside = experts(routed).requires_grad_(True)
    optimizer = torch.optim.AdamW(beside.parameters(), lr=0.01)
    for _ in range(3):
        with speech_positions(MASK):
            logits = routed(TEXT).logits
        nn.functional.cross_entropy(logits[0, 8:-1], TEXT[0, 9:]).backward()
        reached = {name for name, p in routed.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert reached
        assert all(f".{EXPERT}." in name for name in reached)
        assert all(any(f".{i}." in name for name in reached) for i in range(2)), "every layer learns"
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(_logits(routed), _logits(base))
    for key, value in without_experts(routed.state_dict()).items():
        assert torch.equal(value, base.state_dict()[key]), key


@pytest.mark.parametrize("is_speech", [True, False])
def test_each_kind_of_position_moves_its_own_ffn(pair, is_speech):
    _, routed = pair
    routed.requires_grad_(True)
    with speech_positions(MASK):
        hidden = backbone(routed)(TEXT, output_hidden_states=True).hidden_states[1]  # of the first layer
    hidden[is_speech == MASK].sum().backward()
    reached = {name for name, p in routed.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    ffn = {name for name in reached if ".mlp." in name}
    assert ffn
    assert all((f".{EXPERT}." in name) == is_speech for name in ffn)


def test_cached_passes_give_what_one_pass_gives(pair):
    _, routed = pair
    whole, kept, rows = _logits(routed, MASK), {cache_argument(routed): DynamicCache()}, []
    for start, stop in ((0, 5), (5, 9), (9, 10), (10, L)):
        with speech_positions(MASK[:, start:stop]), torch.no_grad():
            rows.append(routed(TEXT[:, start:stop], use_cache=True, **kept).logits)
    torch.testing.assert_close(torch.cat(rows, 1), whole, rtol=1e-4, atol=1e-4)


def test_a_batch_routes_each_row_by_itself():
    routed = _llm("llama")
    add_experts(routed)
    with torch.no_grad():
        for weight in experts(routed).parameters():
            weight.mul_(1.5)
    both = torch.cat([MASK, MASK.roll(2, 1)])
    with speech_positions(both), torch.no_grad():
        together = routed(TEXT.expand(2, -1)).logits
    for row, mask in zip(together, both, strict=True):
        torch.testing.assert_close(row, _logits(routed, mask[None])[0], rtol=1e-4, atol=1e-5)


def test_gradient_checkpointing_is_routed_in_its_second_pass_too():
    gradients = []
    for is_checkpointed in (False, True):
        routed = _llm("llama").train()
        add_experts(routed)
        if is_checkpointed:
            routed.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": checkpoint_contexts})
        with speech_positions(MASK):
            loss = routed(TEXT, use_cache=False).logits.square().sum()
        loss.backward()
        gradients.append({name: p.grad for name, p in experts(routed).named_parameters()})
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, msg=name)


def test_threads_do_not_see_each_others_positions():
    routed = _llm("llama")
    add_experts(routed)
    with torch.no_grad():
        for weight in experts(routed).parameters():
            weight.zero_()
    found = []
    with speech_positions(MASK):
        thread = threading.Thread(target=lambda: found.append(_logits(routed)))
        thread.start()
        thread.join()
        inside = routed(TEXT).logits
    assert torch.equal(found[0], _logits(routed))
    assert not torch.equal(inside, found[0])


def test_what_cannot_have_experts_says_so():
    routed = _llm("llama")
    add_experts(routed)
    with pytest.raises(ValueError, match="has speech experts already"):
        add_experts(routed)
    with speech_positions(MASK[:, :5]), pytest.raises(ValueError, match=r"need inputs \(1, 5\)"):
        routed(TEXT)
    mixture = AutoConfig.for_model("mixtral", **SIZES, num_local_experts=2)
    with pytest.raises(ValueError, match="Train this LLM with LoRA instead"):
        add_experts(AutoModelForCausalLM.from_config(mixture))


@pytest.fixture
def model(tiny_model):
    """A whole model whose experts have gone their own way."""
    torch.manual_seed(3)
    model = VocalNet(tiny_config(), tiny_model.tokenizer).eval()
    prepare_experts(model)
    with torch.no_grad():
        for weight in experts(model.llm).parameters():
            weight.add_(0.3 * torch.randn(weight.shape))
    return model


def test_a_model_routes_audio_and_answers_alike_from_training_and_generation(model, question):
    pieces = [[1, 2, 3], [4, 5]]
    features = model.features(question[0])
    audio = [model.adapt(features)]
    mask = speech_mask(pieces, audio)
    assert mask.tolist() == [False] * 3 + [True] * len(audio[0]) + [False] * 2
    with speech_positions(mask[None]):
        states = backbone(model.llm)(inputs_embeds=embed_prompt(model.llm, pieces, audio)).last_hidden_state[0, -1:]
    produced, _ = model.answer_states([features, None], [pieces, [[1, 2, 3]]], [[7, 8], [9]])
    torch.testing.assert_close(produced[0][:1], states, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(
        states, backbone(model.llm)(inputs_embeds=embed_prompt(model.llm, pieces, audio)).last_hidden_state[0, -1:]
    )


def test_a_session_answers_by_the_experts(model, question):
    pieces = prompt_pieces(model.tokenizer, model.family, [Message("user", user_content())])
    stops = end_ids(model.tokenizer, model.family)

    def greedy(features, prompt) -> str:
        ids: list[int] = []
        while len(ids) < model.parts.max_text_tokens:
            produced, _ = model.answer_states([features], [prompt], [ids])
            token = int(model.llm.get_output_embeddings()(produced[0][-1]).argmax())
            if token in stops:
                break
            ids.append(token)
        return model.tokenizer.decode(ids, skip_special_tokens=True)

    features = model.features(question[0])
    answer = model.respond(audio=question, speech=False).text
    assert answer == greedy(features, pieces)
    start_experts(model.llm)
    assert answer != greedy(features, pieces), "the text weights would have said something else"


def test_experts_are_a_component_of_their_own(model, tiny_model, question, tmp_path):
    model.save_pretrained(tmp_path / "routed", dtype=torch.float32)
    keys = load_file(tmp_path / "routed" / "llm.safetensors").keys()
    tiny_model.save_pretrained(tmp_path / "base", dtype=torch.float32)
    assert keys == load_file(tmp_path / "base" / "llm.safetensors").keys()
    assert "model/layers/0/mlp/up_proj.weight" in load_file(tmp_path / "routed" / "experts.safetensors")
    assert "experts" in describe(tmp_path / "routed")["components"]
    again = load(tmp_path / "routed")
    for key, value in model.llm.state_dict().items():
        assert torch.equal(again.llm.state_dict()[key], value), key
    options = DecodeOptions(max_tokens=9, min_tokens=9)
    for asked in ({"audio": question}, {"text": "What is four?"}):
        want, got = (m.respond(**asked, options=options) for m in (model, again))
        assert (got.text, got.speech_tokens) == (want.text, want.speech_tokens)
    session = again.session()
    session.respond(audio=question, speech=False)
    assert np.isfinite(session.respond(audio=question, options=options).audio).all()
    (tmp_path / "routed" / "experts.safetensors").unlink()
    with pytest.raises(ValueError, match=r"has no experts\.safetensors"):
        load(tmp_path / "routed")


def test_a_typed_question_is_answered_as_by_the_base_llm(model, tiny_model):
    base = VocalNet(tiny_config(), tiny_model.tokenizer).eval()
    base.llm.load_state_dict(without_experts(model.llm.state_dict()))
    prompt = [[1, 2, 3, 4]]
    (got, _), (want, _) = (m.answer_states([None], [prompt], [[5, 6]]) for m in (model, base))
    assert torch.equal(got[0], want[0])
