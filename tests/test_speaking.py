"""How a text reaches the talker: in segments, as one batch offline, and for published weights as published."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.conftest import tiny_config
from vocalnet import DecodeOptions, VocalNet
from vocalnet.llm import text_end_embedding
from vocalnet.session import Session, SpeakingRules

OPTIONS = DecodeOptions(tokens_per_step=3, max_tokens=10, min_tokens=10)
OWN, OFFLINE, STREAMING = SpeakingRules(), SpeakingRules.released(), SpeakingRules.released_streaming()


@pytest.fixture
def write(monkeypatch):
    """Lets a session write texts given as a list of tokens' texts; returns what sets one, and the states (n + 1, D)."""

    def set_text(deltas):
        states = torch.randn(len(deltas) + 1, 32, generator=torch.Generator().manual_seed(len(deltas)))
        rows = states.split(1)
        written = [(delta, state, False) for delta, state in zip(deltas, rows, strict=False)]
        monkeypatch.setattr(Session, "_answer", lambda self, *_: iter([*written, ("", rows[-1], True)]))
        return states

    return set_text


@pytest.fixture(scope="module")
def published(tiny_model):
    """The tiny model with a talker that decodes the published way, five text tokens at a time."""
    torch.manual_seed(3)
    parts = tiny_config()
    talker = replace(parts.talker, behaviour="released", mask_rule="released", text_chunk=5)
    return VocalNet(replace(parts, talker=talker), tiny_model.tokenizer).eval().requires_grad_(False)


def text_end(model):
    return text_end_embedding(model.llm, model.tokenizer, model.family)


def spoken(model, rows, options):
    """Returns the units that the talker says to a text alone, (n, D)."""
    return [token for token in model.talker.generate(rows[None], options).tolist() if token < 27]


def record_batches(model, monkeypatch):
    """Returns the list that all texts decoded from now on are added to, call by call."""
    batches, decode = [], model.talker.decode
    monkeypatch.setattr(model.talker, "decode", lambda texts, options: batches.append(texts) or decode(texts, options))
    return batches


@pytest.mark.parametrize(
    ("rules", "n_tokens", "text", "is_cut"),
    [
        (OWN, 51, " four.", True),
        (OWN, 50, " four.", False),
        (OWN, 60, "?\n\n", True),
        (OWN, 60, ",", False),
        (OFFLINE, 51, ",", True),
        (OFFLINE, 50, ",", False),
        (OFFLINE, 60, "four.", False),
        (OFFLINE, 60, ".\n", False),
        (STREAMING, 50, "four!", True),
        (STREAMING, 49, "four!", False),
        (STREAMING, 60, "!\n", False),
        (STREAMING, 60, ",", False),
    ],
)
def test_where_a_segment_ends(rules, n_tokens, text, is_cut):
    assert rules.is_cut(n_tokens, text) == is_cut


def test_offline_the_segments_are_one_batch_and_sound_as_one_by_one(tiny_model, write, monkeypatch):
    model, batches = tiny_model, record_batches(tiny_model, monkeypatch)
    states = write(["a"] * 52 + ["."] + ["b"] * 55 + ["!", "c", "d"])
    for policy in ("fixed", "greedy_verify"):
        batches.clear()
        options = replace(OPTIONS, policy=policy)
        result = model.respond(text="Go on", options=options)
        segments = [torch.cat([states[a:b], text_end(model)]) for a, b in ((0, 53), (53, 109), (109, 111))]
        assert [len(text) for text in batches[0]] == [54, 57, 3]
        assert all(torch.equal(a, b) for a, b in zip(batches[0], segments, strict=True))
        assert result.speech_tokens == [token for rows in segments for token in spoken(model, rows, options)]
        assert result.acceptance.n_kept == 30


def test_streaming_starts_anew_with_each_segment(tiny_model, write):
    options = replace(OPTIONS, mask="streaming", max_tokens=20, min_tokens=20)
    states = write(["a"] * 52 + ["."] + ["b"] * 3)
    first, second = (torch.cat([rows, text_end(tiny_model)]) for rows in (states[:53], states[53:56]))
    result = tiny_model.respond(text="Go on", options=options)
    assert result.speech_tokens == spoken(tiny_model, first, options) + spoken(tiny_model, second, options)


@pytest.mark.parametrize("n_after", [0, 3])
def test_published_weights_hear_the_end_and_drop_the_last_token(published, write, monkeypatch, n_after):
    """A mark right before the end is in the last segment with it."""
    states = write(["a"] * 52 + [","] + ["b"] * n_after)
    cuts = ((0, 54),) if n_after == 0 else ((0, 53), (53, 57))
    segments = [torch.cat([states[start:stop], text_end(published)]) for start, stop in cuts]
    options = replace(DecodeOptions.released(3), max_tokens=10, min_tokens=12)
    expected = [token for text in published.talker.decode(segments, options) for token in text.tokens[:-1]]
    batches = record_batches(published, monkeypatch)
    result = published.respond(text="Go on", options=options)
    assert [len(text) for text in batches[0]] == [len(text) for text in segments]
    assert all(torch.equal(a, b) for a, b in zip(batches[0], segments, strict=True))
    assert result.speech_tokens == [token for token in expected if token < 27]


def test_a_published_end_token_is_dropped_once(published, write):
    options = replace(DecodeOptions.released(1), max_tokens=9)
    for n_text in range(1, 20):
        states = write(["a"] * n_text)
        tokens = spoken(published, torch.cat([states, text_end(published)]), options)
        if 0 < len(tokens) < 7:  # it ended by itself
            break
    assert published.respond(text="Go on", options=options).speech_tokens == tokens


class Recorder:
    """A talker session that says 1, 2, 3 to every push and remembers it."""

    def __init__(self):
        self.pushes = []

    def push(self, hidden, last=False):
        self.pushes.append((0 if hidden is None else hidden.shape[1], last))
        return torch.tensor([1, 2, 3])

    def rest(self, hidden, n_tokens):
        yield self.push(hidden, last=True)

    def candidates(self, n):
        return []

    def take_picks(self):
        return []


@pytest.mark.parametrize(
    ("n_text", "pushes", "tokens"),
    [
        (7, [(5, False), (4, True)], [1, 2, 3, 1, 2]),  # two texts, the end's state, the embedding that closes the text
        (4, [(5, False), (0, True)], [1, 2, 3, 1, 2]),  # the end fills a chunk: no closing embedding
        (5, [(5, False), (0, True)], [1, 2, 3, 1, 2]),  # the end opens a chunk: not even its state
        (0, [], [4, 5]),  # nothing to say
    ],
)
def test_published_weights_stream_the_published_way(published, write, monkeypatch, n_text, pushes, tokens):
    recorder = Recorder()
    monkeypatch.setattr(published.talker, "session", lambda options: recorder)
    monkeypatch.setattr("vocalnet.session.RELEASED_FILLER", (4, 5))
    write(["a"] * n_text)
    result = published.respond(text="Go on", options=DecodeOptions.released_streaming(3))
    assert (recorder.pushes, result.speech_tokens) == (pushes, tokens)


def test_our_weights_close_every_text(tiny_model, write, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(tiny_model.talker, "session", lambda options: recorder)
    write(["a"] * 4)
    result = tiny_model.respond(text="Go on", options=replace(OPTIONS, mask="streaming"))
    assert (recorder.pushes, result.speech_tokens) == ([(2, False), (2, False), (1, True)], [1, 2, 3] * 3)
