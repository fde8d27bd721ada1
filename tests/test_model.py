"""The assembled model: windows, training forward, and what training and generation hand to the talker."""

import numpy as np
import torch

from tests.conftest import tiny_config
from vocalnet.llm import Message, prompt_pieces, user_content
from vocalnet.model import VocalNet


def _prompt(model):
    return prompt_pieces(model.tokenizer, model.family, [Message("user", user_content())])


def test_long_audio_is_encoded_in_windows(tiny_model):
    window = round(tiny_model.parts.encoder.window_s * 16000)
    samples = np.random.default_rng(0).standard_normal(window + 8000).astype(np.float32)
    features = tiny_model.features(samples)
    torch.testing.assert_close(features[:100], tiny_model.features(samples[:window]))
    torch.testing.assert_close(features[100:], tiny_model.features(samples[window:]))


def test_padding_to_the_window_keeps_the_clip_length(tiny_model):
    import dataclasses

    config = tiny_config()
    config = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, pad_to_window=True))
    model = VocalNet(config, tiny_model.tokenizer).eval()
    assert model.features(np.ones(16000, np.float32)).shape[0] == 50


def test_stage_1_reaches_the_adaptor_and_stage_2_the_talker(tiny_model):
    model = VocalNet(tiny_config(), tiny_model.tokenizer)
    features = [torch.randn(30, 32), torch.randn(21, 32)]
    answers = [[5, 6, 7], [8]]
    model(features, [_prompt(model)] * 2, answers).backward()
    assert model.adaptor.linear1.weight.grad.abs().sum() > 0
    assert model.talker.embedding.weight.grad is None
    model(features, [_prompt(model)] * 2, answers, units=[torch.tensor([1, 2, 3]), torch.tensor([4])]).backward()
    assert model.talker.embedding.weight.grad.abs().sum() > 0


def test_a_sample_does_not_depend_on_its_batch_mates(tiny_model):
    features = [torch.randn(30, 32), torch.randn(21, 32)]
    answers = [[5, 6, 7], [8]]
    together, _ = tiny_model.answer_states(features, [_prompt(tiny_model)] * 2, answers)
    alone, _ = tiny_model.answer_states(features[1:], [_prompt(tiny_model)], answers[1:])
    assert [len(row) for row in together] == [4, 2]
    torch.testing.assert_close(together[1], alone[0], atol=1e-5, rtol=0)


def test_the_talker_hears_the_same_rows_in_training_and_in_generation(tiny_model, question):
    """Teacher forcing with the model's own answer gives the states that generation handed over."""
    session, heard = tiny_model.session(), []
    samples = question[0]
    messages = [Message("user", user_content())]
    audio = [tiny_model.adapt(tiny_model.features(samples))]
    run = type("Run", (), {"timed": staticmethod(lambda stage, work: work()), "warnings": []})
    ids = []
    for _, state, is_end in session._answer(messages, audio, run):
        if is_end:
            break
        heard.append(state)
        ids.append(int(tiny_model.llm.get_output_embeddings()(state).argmax()))
    produced, _ = tiny_model.answer_states([tiny_model.features(samples)], [_prompt(tiny_model)], [ids])
    torch.testing.assert_close(torch.cat(heard), produced[0][:-1], atol=1e-4, rtol=0)
