"""Steps in static shapes: the same tokens as ordinary steps, run as they are and recorded as a graph."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
from fake_graphs import FakeCuda, fake_cuda

from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.kernels import check_kernel, use_kernel
from vocalnet.decoder.options import DecodeOptions, RepetitionAware, RepetitionPenalty
from vocalnet.decoder.static import StaticPass
from vocalnet.graphs import Passes

RELEASED = {"behaviour": "released", "mask_rule": "released"}
PENALTY = RepetitionPenalty(window=7, heads="all")
SAMPLED = DecodeOptions(temperature=1.0, top_k=20, top_p=0.9, penalty=PENALTY, seed=5, min_tokens=20, max_tokens=40)
GREEDY = DecodeOptions(min_tokens=25, max_tokens=40)
STREAMED = replace(GREEDY, mask="streaming", min_tokens=18)


@pytest.fixture
def pair(make_talker):
    """Builds the same talker twice; the second takes static passes."""

    def make(head="mtp_vocalnet", **changes):
        plain, static = (make_talker(head, **changes).requires_grad_(False) for _ in range(2))
        static.passes = Passes()
        return plain, static

    return make


@pytest.fixture
def n_passes(monkeypatch):
    """Counts static passes."""
    runs = []
    run = StaticPass.run
    monkeypatch.setattr(StaticPass, "run", lambda self, *args: runs.append(self) or run(self, *args))
    return lambda: len(runs)


@pytest.fixture(params=["as it is", "recorded"])
def cuda(request, monkeypatch) -> FakeCuda | None:
    return fake_cuda(monkeypatch) if request.param == "recorded" else None


def assert_same(found, expected):
    for (tokens, logits), (expected_tokens, expected_logits) in zip(found, expected, strict=True):
        assert tokens.tolist() == expected_tokens.tolist()
        torch.testing.assert_close(logits, expected_logits, atol=1e-4, rtol=1e-4)


def steps_of(head):
    return {"ntp": (1,), "group_linear": (3,), "group_trans": (3,)}.get(head, (2, 4))


@pytest.mark.parametrize("options", [GREEDY, SAMPLED, STREAMED], ids=["greedy", "sampled", "streamed"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_says_the_same(pair, texts, n_passes, cuda, head, options):
    plain, static = pair(head)
    for K in steps_of(head):
        options = replace(options, tokens_per_step=K)
        expected = plain.generate(texts, options, return_logits=True)
        before = n_passes()
        assert_same(static.generate(texts, options, return_logits=True), expected)
        assert n_passes() > before + 5


@pytest.mark.parametrize("mask", ["full", "streaming"])
@pytest.mark.parametrize("head", ["ntp", "mtp_vocalnet", "mtp_deepseek", "mtp_parallel_linear"])
def test_the_published_behaviour_is_the_same(pair, texts, n_passes, cuda, head, mask):
    """Its caches drift apart at the ends of chunks, and an end token ends a call in the midst of a step."""
    plain, static = pair(head, **RELEASED)
    for K in steps_of(head):
        make = DecodeOptions.released if mask == "full" else DecodeOptions.released_streaming
        options = replace(make(K), max_tokens=50)
        expected = plain.generate(texts, options, return_logits=True)
        assert_same(static.generate(texts, options, return_logits=True), expected)
    assert n_passes() > 10


def test_the_recorded_answers_of_the_published_code_are_met(golden, n_passes, cuda):
    talker = copy.deepcopy(golden.talker)
    hidden = torch.randn(1, 23, talker.config.llm_dim, generator=torch.Generator().manual_seed(2))
    for options in (DecodeOptions.released(3), DecodeOptions.released_streaming(3)):
        options = replace(options, max_tokens=40)
        expected = golden.talker.generate(hidden, options)
        talker.passes = Passes()
        assert torch.equal(talker.generate(hidden, options), expected)
    assert n_passes() > 10


@pytest.mark.parametrize("changes", [{}, RELEASED], ids=["own", "released"])
def test_text_may_come_in_between(pair, texts, n_passes, cuda, changes):
    plain, static = pair(**changes)
    options = replace(STREAMED, tokens_per_step=4, max_tokens=100, min_tokens=100)
    sessions = [talker.session(options) for talker in (plain, static)]
    for start in (0, 5, 10, 15):
        pushed = [session.push(texts[1][None, start : start + 5], last=start == 15) for session in sessions]
        assert pushed[0].tolist() == pushed[1].tolist()
    assert n_passes() > 15


def test_a_module_that_ends_an_answer_is_heard_by_the_main_head(pair, texts, n_passes):
    """A token taken back: the next step is an ordinary one, the others go on as passes."""
    plain, static = pair(n_units=3, bos_id=3, sos_id=4, eos_id=5, pad_id=6)
    for text in texts:
        options = DecodeOptions(tokens_per_step=4, max_tokens=80, min_tokens=1)
        assert torch.equal(static.generate(text[None], options), plain.generate(text[None], options))
    assert n_passes() > 10


def test_what_waits_to_be_run_again_is_no_passes(pair, texts, cuda):
    streams = [talker.session(replace(GREEDY, tokens_per_step=4)).stream for talker in pair()]
    with torch.inference_mode():
        for stream in streams:
            stream.add_text(texts[1][None])
            for _ in range(4):
                stream.step()
            if stream.static is not None:
                newest = [part.clone() for part in stream._newest]
            stream.take_back(2)
        for part in streams[1]._newest:
            part.zero_()
        assert all(torch.equal(a, b) for a, b in zip(streams[1].behind, newest, strict=True))
        for stream in streams:
            stream.step()
    assert torch.equal(streams[0].sequence, streams[1].sequence)


@pytest.mark.parametrize("changes", [{}, RELEASED], ids=["own", "released"])
def test_a_longer_answer_moves_to_a_larger_pass(pair, texts, cuda, changes):
    plain, static = pair(**changes)
    options = DecodeOptions(tokens_per_step=4, max_tokens=300, min_tokens=300, temperature=1.0, seed=1)
    for _ in range(2):  # the second takes what the first has given back
        expected = plain.generate(texts[:2], options, return_logits=True)
        assert_same(static.generate(texts[:2], options, return_logits=True), expected)
    if cuda is not None:
        assert len(cuda.graphs) == 2  # 256 and 512 slots
        assert cuda.n_replays > 2 * 70


def test_a_long_text_fits_from_the_start(pair, n_passes):
    plain, static = pair()
    text = torch.randn(1, 700, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(static.generate(text, GREEDY), plain.generate(text, GREEDY))
    assert n_passes() > 10


def test_sessions_at_once_do_not_share_a_pass(pair, texts, cuda):
    plain, static = pair()
    options = replace(STREAMED, max_tokens=90, min_tokens=90)
    sessions = [talker.session(options) for talker in (plain, plain, static, static)]
    for start in (0, 5, 10, 15):
        first, second = (text[None, start : start + 5] for text in (texts[1], -texts[1]))
        said = [s.push(x, last=start == 15) for s, x in zip(sessions, (first, second) * 2, strict=True)]
        assert [x.tolist() for x in said[:2]] == [x.tolist() for x in said[2:]]
    if cuda is not None:
        assert len(cuda.graphs) == 2


def test_threads_do_not_share_a_pass(pair, texts):
    plain, static = pair()
    expected = [plain.generate(text[None], GREEDY).tolist() for text in texts]
    found = [[] for _ in texts]

    def speak(n):
        for _ in range(5):
            found[n].append(static.generate(texts[n][None], GREEDY).tolist())

    threads = [threading.Thread(target=speak, args=(n,)) for n in range(len(texts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[tokens] * 5 for tokens in expected]


def test_a_pass_is_handed_on_and_forgets(pair, texts, cuda):
    """Whatever was in its memory: what is hidden weighs nothing, unless it is not finite."""
    plain, static = pair()
    session = static.session(STREAMED)
    session.push(texts[1][None, :10])
    first = session.stream.static
    for stored in first.lanes[0].cache.values:
        stored.fill_(float("nan"))
    del session
    for seed in (1, 2):
        options = replace(STREAMED, seed=seed, max_tokens=30)  # neither makes another pass
        session = static.session(options)
        assert session.stream.static is first
        assert session.push(texts[0][None], last=True).tolist() == plain.generate(texts[0][None], options).tolist()
        del session
    assert static.session(replace(STREAMED, tokens_per_step=2)).stream.static is not first


def test_a_pass_may_be_used_in_and_out_of_inference_mode(pair, texts):
    plain, static = pair()
    expected = plain.generate(texts[0][None], GREEDY)
    for mode in (torch.inference_mode, torch.no_grad, torch.inference_mode):
        with mode():
            stream = static.session(GREEDY).stream
            stream.add_text(texts[0][None])
            for _ in range(5):
                stream.step()
        assert torch.equal(stream.sequence[0, 1:14], expected[:13])
        del stream


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "greedy_verify"},
        {"policy": "confidence"},
        {"temperature": 1.0, "repetition_aware": RepetitionAware(), "seed": 0},
        {"penalty": RepetitionPenalty(window=0, scope="call")},
    ],
)
def test_what_has_no_fixed_shape_goes_the_ordinary_way(pair, texts, n_passes, changes):
    plain, static = pair()
    options = replace(GREEDY, **changes)
    assert torch.equal(static.generate(texts[1][None], options), plain.generate(texts[1][None], options))
    assert n_passes() == 0


def test_draws_of_the_published_streaming_go_the_ordinary_way(pair, texts, n_passes):
    """An end token there leaves draws over that a later call would use."""
    plain, static = pair(**RELEASED)
    options = replace(DecodeOptions.released_streaming(3), temperature=1.0, seed=0, max_tokens=50)
    assert torch.equal(static.generate(texts[1][None], options), plain.generate(texts[1][None], options))
    assert n_passes() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_the_bits_are_enough(pair, texts, cuda, dtype):
    """Near ties may go either way; both are fed the same tokens here."""
    streams = [talker.to(dtype).session(replace(GREEDY, tokens_per_step=2)).stream for talker in pair()]
    with torch.inference_mode():
        for stream in streams:
            stream.add_text(texts[1][None])
        for _ in range(10):
            plain, static = (stream.step() for stream in streams)
            assert static.logits.dtype == dtype
            torch.testing.assert_close(static.logits, plain.logits, atol=0.15, rtol=0.05)
            streams[1].sequence = streams[0].sequence
    assert plain.logits.abs().max() > 2


def test_a_talker_that_is_moved_records_anew(pair, texts, cuda):
    plain, static = pair()
    static.generate(texts[0][None], GREEDY)
    assert torch.equal(
        static.double().generate(texts[0][None], GREEDY), plain.double().generate(texts[0][None], GREEDY)
    )


def test_the_kernel_is_for_a_gpu(make_talker):
    check_kernel("graphed", torch.device("cuda"), torch.bfloat16)
    with pytest.raises(ValueError, match='choose device="cuda"'):
        use_kernel(make_talker(), "graphed")


def test_the_kernel_prepares_a_talker_once(make_talker, texts, monkeypatch):
    talker = make_talker().requires_grad_(False)
    expected = talker.generate(texts[0][None], GREEDY)
    monkeypatch.setattr("vocalnet.decoder.kernels.check_kernel", lambda *args: None)
    use_kernel(talker, "graphed")
    passes = talker.passes
    use_kernel(talker, "graphed")
    assert talker.passes is passes is not None
    assert copy.deepcopy(talker).passes is not passes
    assert torch.equal(talker.generate(texts[0][None], GREEDY), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("changes", [{}, RELEASED], ids=["own", "released"])
def test_graphs_on_a_gpu_say_the_same(pair, texts, n_passes, changes):
    """What no stand-in can show: the capture itself."""
    plain, static = (talker.cuda() for talker in pair(**changes))
    use_kernel(static, "graphed")
    mask = "full" if changes else "streaming"
    for options in (GREEDY, replace(SAMPLED, mask=mask), replace(GREEDY, max_tokens=300, min_tokens=300)):
        for _ in range(2):
            expected = plain.generate(texts, options, return_logits=True)
            assert_same(static.generate(texts, options, return_logits=True), expected)
    assert n_passes() > 20
