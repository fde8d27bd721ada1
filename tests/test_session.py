"""Sessions: one loop for streaming and offline, no shared state, clear refusals."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import vocalnet.session
from vocalnet import AudioChunk, DecodeOptions, Finished, SpeechTokens, TextDelta, Timings, VocoderOptions
from vocalnet.llm import Message, backbone, embed_prompt, prompt_pieces, user_content

SHORT = DecodeOptions(tokens_per_step=3, max_tokens=40, min_tokens=20)
SHORT_STREAM = DecodeOptions(tokens_per_step=3, max_tokens=80, min_tokens=70, mask="streaming")


@pytest.mark.parametrize("options", [SHORT, SHORT_STREAM], ids=["full", "streaming"])
def test_the_result_folds_the_stream(tiny_model, question, options):
    events = list(tiny_model.stream(audio=question, options=options))
    result = events[-1].result
    assert isinstance(events[-1], Finished)
    assert isinstance(events[-2], Timings)
    assert result.text == "".join(e.text for e in events if isinstance(e, TextDelta))
    assert result.speech_tokens == [t for e in events if isinstance(e, SpeechTokens) for t in e.tokens]
    assert result.stats == [stat for e in events if isinstance(e, SpeechTokens) for stat in e.stats]
    audio = np.concatenate([e.samples for e in events if isinstance(e, AudioChunk)])
    assert np.array_equal(result.audio, audio)
    assert len(audio) == len(result.speech_tokens) * 640  # 25 tokens a second at 16 kHz
    times = [e.t_s for e in events]
    assert times == sorted(times)


@pytest.mark.parametrize("options", [SHORT, SHORT_STREAM], ids=["full", "streaming"])
def test_every_event_tells_the_stages_so_far_by_the_injected_clock(tiny_model, question, options):
    ticks = itertools.count()
    events = list(tiny_model.session(clock=lambda: float(next(ticks))).stream(audio=question, options=options))
    told = [event.stages for event in events[:-1]]
    assert all({"encoder", "llm", "talker", "vocoder"} <= set(stages) for stages in told)
    for earlier, later in itertools.pairwise(told):
        assert all(later[name] >= seconds for name, seconds in earlier.items())
    assert told[-1] == events[-1].result.timings
    assert all(event.t_s == int(event.t_s) for event in events)  # no other clock


def test_a_long_rest_is_heard_while_it_is_decoded(tiny_model, question):
    options = replace(SHORT_STREAM, min_tokens=300, max_tokens=300)
    events = list(tiny_model.stream(audio=question, options=options))
    said = [event.tokens for event in events if isinstance(event, SpeechTokens)]
    chunk = tiny_model.talker.config.speech_chunk
    assert max(map(len, said)) <= chunk
    assert sum(stat.kept for stat in events[-1].result.stats) == 300  # special tokens, which are not spoken, with them
    n_pieces = sum(isinstance(event, AudioChunk) for event in events)
    assert n_pieces >= sum(map(len, said)) // tiny_model.vocoder.flow_config.chunk_size


def test_chunks_and_the_vocoders_options_are_heard(tiny_model, question):
    calls = []
    stream = tiny_model.vocoder.token_stream
    tiny_model.vocoder.token_stream = lambda **options: calls.append(options) or stream(**options)
    try:
        sound = VocoderOptions(n_steps=1, chunk=5, cfg_rate=0.0)
        options = replace(SHORT_STREAM, text_chunk=3, speech_chunk=9)
        events = list(tiny_model.stream(audio=question, options=options, sound=sound))
    finally:
        del tiny_model.vocoder.token_stream
    assert calls == [{"n_steps": 1, "cfg_rate": 0.0, "chunk": 5, "style": "exact", "fade": None}]
    kinds = [type(event) for event in events]
    before = kinds[: kinds.index(SpeechTokens)]
    assert len(events[kinds.index(SpeechTokens)].stats) == 9
    assert before.count(TextDelta) <= 3
    offline = [tiny_model.respond(audio=question, options=SHORT, sound=VocoderOptions(n_steps=n)).audio for n in (1, 2)]
    assert not np.array_equal(*offline)
    assert np.array_equal(offline[1], tiny_model.respond(audio=question, options=SHORT).audio)  # its own two steps


def test_a_voice_reaches_the_vocoder(tiny_model, question, monkeypatch):
    prompt = tiny_model.vocoder.voice([1, 2, 3], torch.randn(1, 6, 80), torch.randn(1, 192))
    monkeypatch.setattr(tiny_model.vocoder.voices, "prompt", {"anna": prompt}.__getitem__)
    for options in (SHORT, SHORT_STREAM):
        plain = tiny_model.respond(audio=question, options=options)
        voiced = tiny_model.respond(audio=question, options=options, voice="anna")
        assert voiced.speech_tokens == plain.speech_tokens
        assert voiced.audio.shape == plain.audio.shape
        assert not np.allclose(voiced.audio, plain.audio)


def test_min_tokens_raise_the_limit_of_an_answer(tiny_model, monkeypatch):
    monkeypatch.setattr(vocalnet.session, "TOKENS_PER_TEXT", 0)
    monkeypatch.setattr(vocalnet.session, "SPARE_TOKENS", 5)
    options = DecodeOptions(tokens_per_step=3, min_tokens=33)
    assert len(tiny_model.respond(text="Hi", options=options).stats) == 33  # not every one of them is a unit


def test_streaming_sounds_before_the_last_tokens_come(tiny_model, question):
    kinds = [type(e) for e in tiny_model.stream(audio=question, options=SHORT_STREAM)]
    assert kinds.index(AudioChunk) < len(kinds) - 1 - kinds[::-1].index(SpeechTokens)


@pytest.mark.parametrize("options", [SHORT, SHORT_STREAM], ids=["full", "streaming"])
def test_events_name_the_candidates_of_every_pick(tiny_model, question, options):
    events = list(tiny_model.stream(audio=question, options=replace(options, n_candidates=99)))
    spoken = [event for event in events if isinstance(event, SpeechTokens)]
    assert spoken
    for event in spoken:
        assert len(event.candidates) == len(event.stats)
        for made, stat in zip(event.candidates, event.stats, strict=True):
            probs = [prob for _, prob in made.likeliest]
            assert len(probs) == tiny_model.talker.config.vocab_size  # there are no more
            assert probs == sorted(probs, reverse=True)
            assert probs[0] == pytest.approx(stat.max_prob, rel=1e-5)
            assert dict(made.likeliest)[made.token] == pytest.approx(math.exp(stat.logprob), rel=1e-5)
    picks = [pair for event in spoken for pair in zip(event.candidates, event.stats, strict=True)]
    units = tiny_model.talker.config.n_units  # a special token is kept, but is no speech
    made = [made.token for made, stat in picks if stat.kept and made.token < units]
    assert made[: len(events[-1].result.speech_tokens)] == events[-1].result.speech_tokens
    assert tiny_model.respond(audio=question, options=options).speech_tokens == events[-1].result.speech_tokens


def test_two_interleaved_sessions_equal_two_single_ones(tiny_model, question):
    other = (question[0][::-1].copy(), question[1])
    expected = [tiny_model.respond(audio=q, options=SHORT_STREAM) for q in (question, other)]
    streams = [tiny_model.stream(audio=q, options=SHORT_STREAM) for q in (question, other)]
    results = [None, None]
    for pair in itertools.zip_longest(*streams):
        for i, event in enumerate(pair):
            if isinstance(event, Finished):
                results[i] = event.result
    for got, want in zip(results, expected, strict=True):
        assert got.text == want.text
        assert got.speech_tokens == want.speech_tokens
        assert np.array_equal(got.audio, want.audio)


def test_later_turns_hear_the_earlier_ones(tiny_model, question, monkeypatch):
    prompts = []

    def record(llm, pieces, audio):
        prompts.append((tiny_model.tokenizer.decode([i for piece in pieces for i in piece]), len(audio)))
        return embed_prompt(llm, pieces, audio)

    monkeypatch.setattr(vocalnet.session, "embed_prompt", record)
    session = tiny_model.session()
    first = session.respond(audio=question, speech=False).text
    session.respond(text="And minus two?", speech=False)
    session.respond(audio=question, speech=False)
    assert [n for _, n in prompts] == [1, 1, 2]
    assert prompts[1][0] == f"<|user|><|end|><|assistant|>{first}<|end|><|user|>And minus two?<|end|><|assistant|>"


def test_cached_decoding_equals_uncached(tiny_model, question):
    """Every answer token equals the one that a forward pass over the whole sequence gives."""
    model = tiny_model
    text = model.respond(audio=question, speech=False).text
    pieces = prompt_pieces(model.tokenizer, model.family, [Message("user", user_content())])
    inputs = embed_prompt(model.llm, pieces, [model.adapt(model.features(question[0]))])
    ids = []
    while len(ids) < model.parts.max_text_tokens:
        state = backbone(model.llm)(inputs_embeds=inputs).last_hidden_state[:, -1]
        token = int(model.llm.get_output_embeddings()(state).argmax())
        if token == model.tokenizer.eos_token_id:
            break
        ids.append(token)
        inputs = torch.cat([inputs, model.llm.get_input_embeddings()(torch.tensor([[token]]))], 1)
    assert model.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_windows_are_announced(tiny_model):
    long = (np.random.default_rng(0).standard_normal(80_000).astype(np.float32) * 0.1, 16_000)
    result = tiny_model.respond(audio=long, speech=False)
    assert any("windows of 2 s" in warning for warning in result.warnings)
    assert result.audio is None


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "Give one question"),
        ({"text": " "}, "Give one question"),
        ({"audio": "missing.wav"}, "missing.wav"),
        ({"text": "Hi", "voice": "anna"}, "one voice"),
        ({"text": "Hi", "options": DecodeOptions(tokens_per_step=9)}, "tokens_per_step is 9"),
        ({"text": "Hi", "options": DecodeOptions(policy="magic")}, "unknown policy"),
        ({"text": "Hi", "speech": False, "options": DecodeOptions(policy="magic")}, "unknown policy"),
    ],
)
def test_bad_questions_are_refused_before_any_event(tiny_model, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        tiny_model.stream(**arguments)


def test_closing_the_stream_cancels(tiny_model, question):
    stream = tiny_model.stream(audio=question, options=SHORT_STREAM)
    next(stream)
    stream.close()
    assert list(stream) == []


@pytest.mark.parametrize("n_left", [0, 1, 2])
def test_the_oldest_turns_make_room(tiny_model, question, monkeypatch, n_left):
    """What is left is answered as if nothing had been before it; audio goes with its turn."""
    talk, other = tiny_model.session(), tiny_model.session()
    for asked in ({"audio": question}, {"text": "What is it?"}, {"audio": question}):
        talk.respond(speech=False, **asked)
    other._messages, other._audio = talk._messages[6 - 2 * n_left :], talk._audio[2 - min(n_left, 1) :]
    messages = [*other._messages, Message("user", user_content("", "What is two plus two?"))]
    pieces = prompt_pieces(tiny_model.tokenizer, tiny_model.family, messages)
    expected = other.respond(text="What is two plus two?", speech=False)
    length = sum(map(len, [*pieces, *other._audio])) + tiny_model.parts.max_text_tokens
    monkeypatch.setattr(tiny_model.llm.config, "max_position_embeddings", length)
    found = talk.respond(text="What is two plus two?", speech=False)
    assert found.text == expected.text
    assert [warning for warning in found.warnings if warning not in expected.warnings] == [
        "The conversation is longer than this model can follow: its oldest turns were left out."
    ]
    monkeypatch.setattr(tiny_model.llm.config, "max_position_embeddings", 13)
    warnings = tiny_model.session().respond(audio=question, speech=False).warnings
    assert any("longer than this model was made for" in warning for warning in warnings)
