"""Sessions and whole-text decoding: limits, errors, statistics, the paper's mask rule, released batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vocalnet.decoder.options import DecodeOptions, RepetitionPenalty
from vocalnet.decoder.pickers import Picker
from vocalnet.decoder.talker import Talker

STREAMING = DecodeOptions(tokens_per_step=2, mask="streaming", max_tokens=60, min_tokens=60)


def test_a_chunk_of_text_brings_a_chunk_of_speech(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    """15 is no multiple of 2: the 16th token is held back for its chunk, and nothing drifts."""
    session = make_talker().session(STREAMING)
    lengths = [len(session.push(texts[1][None, start : start + 5])) for start in (0, 5, 10)]
    assert lengths == [15, 15, 15]
    assert len(session.push(None)) == 0
    assert len(session.push(texts[1][None, 15:], last=True)) == 15


@pytest.mark.parametrize("head", ["ntp", "mtp_vocalnet", "mtp_deepseek"])
def test_text_runs_with_the_next_speech_rows(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str
) -> None:
    """However it is pushed: here one position at a time, the begin token with the first."""
    talker = make_talker(head)
    K = 1 if head == "ntp" else 3
    n_rows: list[int] = []
    talker.decoder.register_forward_hook(lambda decoder, inputs, output: n_rows.append(output.shape[1]))
    session = talker.session(replace(STREAMING, tokens_per_step=K))
    for i in range(10):
        session.push(texts[1][None, i : i + 1])
    chunk = 15 // K - 1
    assert n_rows == [1 + 5 + 1, *[K] * chunk, 5 + K, *[K] * chunk]


def test_later_text_does_not_change_earlier_speech(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker()
    other = texts[1].clone()
    other[10:] = torch.randn(8, 24)
    first, second = (talker.generate(text[None], STREAMING) for text in (texts[1], other))
    assert torch.equal(first[:30], second[:30])
    assert not torch.equal(first[30:], second[30:])


def test_under_the_full_mask_a_session_waits_for_the_whole_text(
    make_talker: Callable[..., Talker], texts: list[Tensor]
) -> None:
    talker = make_talker()
    options = replace(STREAMING, mask="full")
    session = talker.session(options)
    assert len(session.push(texts[1][None, :5])) == 0
    whole = session.push(texts[1][None, 5:], last=True)
    assert torch.equal(whole, talker.generate(texts[1][None], options))


@pytest.mark.parametrize("K", [1, 2, 3])
def test_the_papers_rule_streams_as_it_trains(make_talker: Callable[..., Talker], texts: list[Tensor], K: int) -> None:
    talker = make_talker(mask_rule="paper")
    options = replace(STREAMING, tokens_per_step=K)
    tokens, logits = talker.generate(texts[1][None], options, return_logits=True)
    expected = talker.logits([texts[1]], [tokens], "streaming")
    for n, row in enumerate(logits):
        torch.testing.assert_close(row, expected[n % K, 0, n - n % K], atol=1e-4, rtol=1e-4)
    session = talker.session(options)
    pushes = [session.push(texts[1][None, i : i + 5], last=i == 15) for i in range(0, 20, 5)]
    assert torch.equal(torch.cat(pushes), tokens)


def test_an_answer_without_text_can_be_spoken(make_talker: Callable[..., Talker]) -> None:
    session = make_talker().session(STREAMING)
    assert len(session.push(None, last=True)) == 60


@pytest.mark.parametrize("mask", ["full", "streaming"])
@pytest.mark.parametrize("policy", ["fixed", "greedy_verify", "confidence"])
def test_the_rest_comes_in_pieces(
    make_talker: Callable[..., Talker], texts: list[Tensor], mask: str, policy: str
) -> None:
    options = replace(STREAMING, tokens_per_step=4, policy=policy, mask=mask, max_tokens=100, min_tokens=50)
    talker = make_talker()
    session = talker.session(options)
    pushed = session.push(texts[1][None, :7])
    pieces = session.rest(texts[1][None, 7:], 15)
    first = next(pieces)
    assert len(session.samples[0].tokens) < len(pushed) + len(first) + 4  # the others are not there yet
    rest = [first, *pieces]
    assert {len(piece) for piece in rest[:-1]} == {15}
    whole = talker.session(options)
    assert torch.equal(whole.push(texts[1][None, :7]), pushed)
    assert torch.equal(torch.cat(rest), whole.push(texts[1][None, 7:], last=True))
    assert session.take_picks() == whole.take_picks()
    with pytest.raises(ValueError, match="open a new one"):
        session.rest(None, 15)


def test_the_published_rest_is_one_call(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker(behaviour="released")
    options = replace(DecodeOptions.released_streaming(3), max_tokens=40)
    calls = [*talker.session(options).rest(texts[1][None], 5)]
    assert len(calls) == 1
    assert torch.equal(calls[0], talker.session(options).push(texts[1][None], last=True))


def test_limits(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker(max_positions=128 + 50)
    options = DecodeOptions(tokens_per_step=4, min_tokens=1000)
    assert len(talker.generate(texts[0][None], options)) == 50  # all positions
    assert len(talker.generate(texts[0][None], replace(options, max_tokens=10))) == 10
    # the published count: start token included, checked between steps
    assert len(talker.generate(texts[0][None], replace(options, max_tokens=10, count="released"))) == 12
    tokens, logits = talker.generate(texts[0][None], replace(options, max_tokens=1, count="released"), True)
    assert len(tokens) == len(logits) == 0
    assert logits.shape == (0, 49)


def test_long_answers_outgrow_the_first_cache(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker(n_layers=1, mtp_num=3)
    options = DecodeOptions(tokens_per_step=4, min_tokens=400, max_tokens=400)
    tokens, logits = talker.generate(texts[0][None], options, return_logits=True)
    expected = talker.logits([texts[0]], [tokens])
    rows = torch.stack([expected[n % 4, 0, n - n % 4] for n in range(400)])
    torch.testing.assert_close(logits, rows, atol=1e-3, rtol=1e-3)


def test_text_after_the_cache_has_grown_sees_no_speech(make_talker: Callable[..., Talker]) -> None:
    talker = make_talker(n_layers=1)
    text = torch.randn(1, 110, 24, generator=torch.Generator().manual_seed(2))
    options = replace(STREAMING, tokens_per_step=3, min_tokens=400, max_tokens=400)  # 256 slots are there at first
    session = talker.session(options)
    pushes = [session.push(text[:, a : a + 5], last=a == 105) for a in range(0, 110, 5)]
    assert torch.equal(torch.cat(pushes), talker.generate(text, options))


def test_without_max_tokens(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker(n_layers=1, max_positions=160)  # speech starts at 128
    options = DecodeOptions(tokens_per_step=1, min_tokens=5000)
    assert len(talker.generate(texts[0], options)) == 32
    published = replace(options, tokens_per_step=3, count="released")  # 2,048 with the start token, between steps
    assert len(talker.generate(texts[0], published)) == 683 * 3
    assert len(make_talker(n_layers=1, max_positions=64).generate(texts[0], options)) == 1


def test_bfloat16_trains_and_speaks(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker().to(torch.bfloat16)
    session = talker.session(STREAMING)
    pushes = [session.push(texts[1][None, i : i + 5], last=i == 15) for i in range(0, 20, 5)]
    assert len(torch.cat(pushes)) == 60
    assert talker.loss(texts, [torch.arange(5)] * 4, "streaming").total.isfinite()


def test_other_integers_and_empty_texts_are_learned_from(make_talker: Callable[..., Talker]) -> None:
    talker, text = make_talker(), torch.randn(7, 24)
    expected = talker.loss([text], [torch.arange(9)]).total
    assert torch.equal(talker.loss([text], [torch.arange(9, dtype=torch.int32)]).total, expected)
    assert talker.loss([text[:0]], [torch.arange(9)]).total.isfinite()
    assert talker.logits([text[:0]], [torch.arange(9)], "full").isfinite().all()


def test_statistics_are_of_the_raw_logits(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker()
    options = DecodeOptions(tokens_per_step=3, max_tokens=10, temperature=2.0, seed=3, penalty=RepetitionPenalty())
    (spoken,) = talker.decode(texts[:1], options)
    logits = spoken.logits()
    stats = spoken.take_picks()
    assert [stat.head for stat in stats] == [0, 1, 2] * 4  # every proposed token
    assert [stat.kept for stat in stats] == [True] * 10 + [False] * 2  # the limit cut the last step
    for row, token, stat in zip(logits, spoken.tokens, stats, strict=False):
        distribution = torch.distributions.Categorical(logits=row)
        assert stat.entropy == pytest.approx(distribution.entropy().item(), abs=1e-4)
        assert stat.max_prob == pytest.approx(distribution.probs.max().item(), abs=1e-5)
        assert stat.logprob == pytest.approx(distribution.log_prob(torch.tensor(token)).item(), abs=1e-4)
    assert spoken.take_picks() == []


def test_a_session_hands_out_statistics_push_by_push(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    session = make_talker().session(replace(STREAMING, tokens_per_step=3))
    for start in (0, 5):
        session.push(texts[1][None, start : start + 5])
        assert len(session.take_picks()) == 15


def test_a_closed_session_says_so(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    session = make_talker().session(STREAMING)
    session.push(texts[0][None], last=True)
    with pytest.raises(ValueError, match="open a new one"):
        session.push(texts[0][None])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (DecodeOptions(tokens_per_step=5), "takes 1 to 4"),
        (DecodeOptions(policy="greedy"), "available: fixed"),
    ],
)
def test_bad_options_name_the_good_ones(
    make_talker: Callable[..., Talker], texts: list[Tensor], options: DecodeOptions, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_talker().generate(texts[0][None], options)


def test_bad_input_is_explained(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker()
    with pytest.raises(ValueError, match="25 wide"):
        talker.generate(torch.zeros(1, 3, 25))
    with pytest.raises(ValueError, match="25 wide"):
        talker.loss([torch.zeros(3, 25)], [torch.arange(3)])
    with pytest.raises(ValueError, match="as a list"):
        talker.generate(torch.zeros(2, 3, 24))
    with pytest.raises(ValueError, match="at least one"):
        talker.generate([])
    with pytest.raises(ValueError, match="as many texts"):
        talker.loss(texts, [torch.arange(3)])
    for arguments in ({"mask": "causal"}, {"mask": ["full"]}, {"positions": "text"}, {"mask_rule": "eq3"}):
        with pytest.raises(ValueError, match=r"mask|positions"):
            talker.loss(texts, [torch.arange(3)] * 4, **arguments)


@pytest.mark.parametrize(
    "changes", [{"head": "mtp"}, {"behaviour": "published"}, {"mask_rule": "eq3"}, {"mask_rule": "released"}]
)
def test_bad_configs_are_refused(make_talker: Callable[..., Talker], changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=r"available|needs"):
        make_talker(**changes)


def test_released_weights_are_decoded_the_published_way_by_default(make_talker: Callable[..., Talker]) -> None:
    talker = make_talker(behaviour="released", mask_rule="released", llm_dim=32)
    assert talker.default_options() == DecodeOptions.released(3)
    assert talker.default_options("streaming") == DecodeOptions.released_streaming(3)
    assert make_talker("ntp").default_options() == DecodeOptions(tokens_per_step=1)


def test_released_streaming_counts_our_way_too(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    talker = make_talker(behaviour="released", mask_rule="released")
    options = replace(STREAMING, tokens_per_step=4, max_tokens=41, min_tokens=41)
    assert len(talker.generate(texts[1][None], options)) == 45  # three whole chunks are never cut
    assert len(talker.generate(texts[2][None], options)) == 41


def test_text_rows(make_talker: Callable[..., Talker]) -> None:
    talker = make_talker()
    states = torch.arange(8.0)[:, None].expand(8, 24)
    labels = torch.tensor([-100, -100, 5, 6, 7, 128009, 9, -100])
    assert talker.text_rows(states, labels)[:, 0].tolist() == [2, 3, 4, 6]
    assert talker.text_rows(states, labels, torch.full((1, 24), 99.0))[:, 0].tolist() == [2, 3, 4, 99]
    assert talker.text_rows(states, labels, end_ids=(7, 9))[:, 0].tolist() == [2, 3, 5]


@pytest.mark.parametrize("head", ["mtp_vocalnet", "mtp_parallel_linear"])
@pytest.mark.parametrize("mask", ["full", "streaming"])
@pytest.mark.parametrize("K", [1, 3, 4])
def test_picking_at_once_is_picking_one_by_one(
    make_talker: Callable[..., Talker],
    texts: list[Tensor],
    monkeypatch: pytest.MonkeyPatch,
    head: str,
    mask: str,
    K: int,
) -> None:
    talker = make_talker(head)
    for layer in talker.head.modules():
        if isinstance(layer, torch.nn.Linear) and layer.out_features == talker.config.vocab_size:
            torch.nn.init.constant_(layer.bias[talker.config.eos_id], 2.0)  # so that answers end
    every = [DecodeOptions(tokens_per_step=K, max_tokens=40, min_tokens=n, mask=mask) for n in (0, 8, 40)]
    at_once = [talker.generate(texts, options, return_logits=True) for options in every]
    assert any(len(tokens) < 40 for tokens, _ in at_once[0])  # some end by themselves, in the midst of a step
    monkeypatch.setattr(Picker, "at_once", None)
    one_by_one = [talker.generate(texts, options, return_logits=True) for options in every]
    torch.testing.assert_close(at_once, one_by_one, rtol=0, atol=0)
