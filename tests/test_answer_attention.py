"""The attention of an answer: of the states that it was spoken from."""

from __future__ import annotations

from dataclasses import replace

import pytest

import vocalnet
from demo.examples import EXAMPLES
from vocalnet import DecodeOptions
from vocalnet.attention import BEGIN, END, answer_attention
from vocalnet.decoder.attention import attention

AUDIO = EXAMPLES[0].path
OPTIONS = {mask: DecodeOptions(tokens_per_step=1, mask=mask) for mask in ("full", "streaming")}


@pytest.fixture(scope="module")
def nano():
    return vocalnet.load("nano", device="cpu")


@pytest.fixture(scope="module")
def answers(nano):
    return {mask: nano.respond(audio=AUDIO, options=options) for mask, options in OPTIONS.items()}


@pytest.mark.parametrize("mask", OPTIONS)
def test_the_attention_of_an_answer(nano, answers, mask):
    seen = answer_attention(nano, answers[mask], OPTIONS[mask], audio=AUDIO)
    config = nano.talker.config
    n_text, n_rows = len(seen.pieces), 1 + len(answers[mask].speech_tokens)
    assert (seen.pieces[0], seen.pieces[-1]) == (BEGIN, END)
    assert "".join(seen.pieces[1:-1]).strip() == answers[mask].text.strip()
    assert seen.attention.text.shape == (config.n_layers, config.n_heads, n_rows, n_text)
    assert (seen.attention.weights[..., ~seen.attention.visible] == 0).all()
    assert seen.scores.shape == (config.n_layers, config.n_heads)
    assert ((seen.scores >= 0) & (seen.scores <= 1)).all()
    assert seen.chance == 1 / (n_text - 1)
    assert seen.scores.max() > 2 * seen.chance  # a trained talker follows the text somewhere


@pytest.mark.parametrize("mask", OPTIONS)
def test_the_states_are_those_it_was_spoken_from(nano, answers, mask, monkeypatch):
    handed = []

    def attend(talker, hidden, *rest):
        handed.append(hidden)
        return attention(talker, hidden, *rest)

    monkeypatch.setattr("vocalnet.attention.attention", attend)
    answer_attention(nano, answers[mask], OPTIONS[mask], audio=AUDIO)
    assert nano.talker.generate(handed[0][None], OPTIONS[mask]).tolist() == answers[mask].speech_tokens


def test_what_cannot_be_shown_says_so(nano, answers):
    with pytest.raises(ValueError, match="no text or no speech"):
        answer_attention(nano, replace(answers["full"], text=""), OPTIONS["full"], audio=AUDIO)
    with pytest.raises(ValueError, match="is spoken in segments; attention is shown for up to 50"):
        answer_attention(
            nano, replace(answers["full"], text="two plus two is four. " * 20), OPTIONS["full"], audio=AUDIO
        )


def test_follow_ups_and_prompts_are_refused(nano, answers):
    """Their states hang on what was said before, which a run does not tell."""
    with pytest.raises(ValueError, match="do not follow from the question alone"):
        answer_attention(nano, answers["full"], OPTIONS["full"], text="What is the opposite of hot?")
    session = nano.session()
    session.respond(audio=AUDIO, speech=False)
    second = session.respond(text="And of Austria?", options=OPTIONS["full"])
    with pytest.raises(ValueError, match="do not follow from the question alone"):
        answer_attention(nano, second, OPTIONS["full"], text="And of Austria?")
