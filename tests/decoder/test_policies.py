"""Policies: what each keeps, exactness against one token per step, caches after a cut, streaming, ends, statistics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vocalnet.decoder import pickers, policies, stream
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.options import DecodeOptions, RepetitionAware, RepetitionPenalty
from vocalnet.decoder.policies import POLICIES, Check, find_policy
from vocalnet.decoder.sampling import probabilities, weigh
from vocalnet.decoder.session import Spoken
from vocalnet.decoder.talker import Talker
from vocalnet.events import TokenStat, acceptance

FEW = {"n_units": 6, "bos_id": 6, "sos_id": 7, "eos_id": 8, "pad_id": 9, "mtp_num": 4}
ADAPTIVE = [name for name, policy in POLICIES.items() if policy.is_adaptive]
TOLERANT = DecodeOptions(tokens_per_step=4, max_tokens=34, min_tokens=32, top_n=3, tau=0.4, eps=0.2)
MakeTalker = Callable[..., Talker]


def single_heads(make_talker: MakeTalker, is_single: bool = True) -> list[str]:
    """Returns the heads that take one token per row, or the others."""
    return [head for head in HEADS if (make_talker(head).head.stride == 1) == is_single]


def agreeing(talker: Talker) -> Talker:
    """Returns the talker with heads that lean towards two tokens, so that modules often say what the main head says."""
    with torch.no_grad():
        for parameter in talker.parameters():
            if parameter.shape == (talker.config.vocab_size,):
                parameter[:2] += 3
    return talker


def streamed(talker: Talker, text: Tensor, options: DecodeOptions, size: int = 5) -> list[Tensor]:
    """Returns what a session says push by push."""
    session = talker.session(options)
    pushes = [session.push(text[None, i : i + size]) for i in range(0, len(text), size)]
    return [*pushes, session.push(None, last=True)]


def sampled(options: DecodeOptions, policy: str) -> DecodeOptions:
    """Returns options that sample as richly as the policy can, with every kind of history."""
    rich = {"temperature": 0.9, "seed": 7, "top_p": 0.9, "repetition_aware": RepetitionAware(6, 0.3)}
    changes: dict[str, Any] = {} if POLICIES[policy].is_greedy else rich
    return replace(options, policy=policy, penalty=RepetitionPenalty(window=3, factor=1.3, heads="all"), **changes)


def test_registry() -> None:
    assert list(POLICIES) == ["fixed", "greedy_verify", "rejection", "typical", "top_n", "confidence"]
    assert DecodeOptions().policy == "fixed"
    with pytest.raises(ValueError, match="available: fixed, greedy_verify"):
        find_policy("best")


@pytest.mark.parametrize("seed", range(8))
def test_greedy_verify_is_one_token_per_step(make_talker: MakeTalker, texts: list[Tensor], seed: int) -> None:
    heads = [head for head in single_heads(make_talker) if head != "ntp"]
    talker = agreeing(make_talker(heads[seed % len(heads)], seed, **FEW)).double()
    penalty = RepetitionPenalty(window=4, factor=1.5) if seed % 2 else None
    one = DecodeOptions(tokens_per_step=1, max_tokens=40, min_tokens=20 + seed, penalty=penalty, mask="streaming")
    many = replace(one, tokens_per_step=2 + seed % 4, policy="greedy_verify")
    text = texts[1 + seed % 2]
    pushes = streamed(talker, text, one)
    assert all(torch.equal(a, b) for a, b in zip(streamed(talker, text, many), pushes, strict=True))
    assert torch.equal(torch.cat(streamed(talker, text, many, 7)), torch.cat(pushes))
    for changes in ({"mask": "streaming"}, {"mask": "full", "min_tokens": 0}):
        expected = talker.generate(text[None], replace(one, **changes))  # type: ignore[arg-type]
        assert torch.equal(talker.generate(text[None], replace(many, **changes)), expected)  # type: ignore[arg-type]
    (spoken,) = talker.decode([text], many)
    counts = acceptance(spoken.take_picks())
    assert counts.n_steps < counts.n_kept < counts.n_proposed, "nothing was verified"


def test_greedy_verify_on_two_hundred_models(make_talker: MakeTalker, texts: list[Tensor]) -> None:
    tiny = {**FEW, "dim": 16, "ffn_dim": 24, "n_heads": 2, "n_layers": 1}
    heads = [head for head in single_heads(make_talker) if head != "ntp"]
    counts = []
    for seed in range(200):
        talker = agreeing(make_talker(heads[seed % len(heads)], seed, **tiny)).double()
        one = DecodeOptions(tokens_per_step=1, max_tokens=12, min_tokens=seed % 12)
        expected = talker.generate(texts[3][None], one)
        for K in (2, 3, 4, 5):
            (spoken,) = talker.decode(texts[3:], replace(one, tokens_per_step=K, policy="greedy_verify"))
            assert spoken.tokens == expected.tolist(), (seed, K)
            counts.append(acceptance(spoken.take_picks()))
    n_steps, n_proposed, n_kept = (sum(getattr(c, n) for c in counts) for n in ("n_steps", "n_proposed", "n_kept"))
    assert 1.2 * n_steps < n_kept < 0.8 * n_proposed, "hardly anything was accepted, or nothing refused"


@pytest.mark.parametrize("K", [2, 4, 5])
def test_greedy_verify_on_released_weights(make_talker: MakeTalker, texts: list[Tensor], K: int) -> None:
    talker = agreeing(make_talker(behaviour="released", mask_rule="released", **FEW)).double()
    for published, has_penalty in product(
        (DecodeOptions.released(1), DecodeOptions.released_streaming(1)), (True, False)
    ):
        one = replace(published, max_tokens=60, min_tokens=60, penalty=published.penalty if has_penalty else None)
        many = replace(one, tokens_per_step=K, policy="greedy_verify")
        pushes = zip(streamed(talker, texts[1], many), streamed(talker, texts[1], one), strict=True)
        assert all(torch.equal(a, b) for a, b in pushes)
    counts = acceptance(talker.decode(texts[1:2], many)[0].take_picks())
    assert counts.n_steps < counts.n_kept < counts.n_proposed, "nothing was verified"


@pytest.mark.parametrize("policy", ADAPTIVE)
@pytest.mark.parametrize("mask", ["full", "streaming"])
def test_caches_hold_what_was_kept(
    make_talker: MakeTalker, texts: list[Tensor], monkeypatch: pytest.MonkeyPatch, policy: str, mask: str
) -> None:
    """Every kept token's logits are the teacher-forced ones, through cropping and through rows that waited."""
    monkeypatch.setattr(pickers, "MAX_BEHIND", 5)
    talker = agreeing(make_talker(**FEW))
    session = talker.session(replace(TOLERANT, policy=policy, mask=mask))  # type: ignore[arg-type]
    spoken: Spoken = session.samples[0]  # type: ignore[attr-defined]
    for start in range(0, 20, 5):
        session.push(texts[1][None, start : start + 5], last=start == 15)
    logits = spoken.logits()
    heads = [stat.head for stat in spoken.take_picks() if stat.kept]
    assert 0.1 < sum(head > 0 for head in heads) / len(heads) < 0.74  # three quarters: nothing was cropped
    expected = talker.logits([texts[1]], [torch.tensor(spoken.tokens)], mask)
    for n, (row, head) in enumerate(zip(logits, heads, strict=True)):
        torch.testing.assert_close(row, expected[head, 0, n - head], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mask", ["full", "streaming"])
def test_modules_are_fed_what_was_said(make_talker: MakeTalker, texts: list[Tensor], mask: str) -> None:
    """Also those that ran for the text alone, in a step that had stopped before them."""
    options = replace(TOLERANT, policy="confidence", max_tokens=14, min_tokens=14, mask=mask)  # type: ignore[arg-type]
    first_heads = []
    for seed in range(10):
        talker = make_talker("mtp_deepseek", seed, **FEW)
        (spoken,) = talker.decode(texts[1:2], options)
        logits = spoken.logits()
        heads = [stat.head for stat in spoken.take_picks() if stat.kept]
        first_heads.append(heads.index(0, 1))
        expected = talker.logits([texts[1]], [torch.tensor(spoken.tokens)], mask)
        for n, (row, head) in enumerate(zip(logits, heads, strict=True)):
            torch.testing.assert_close(row, expected[head, 0, n - head], atol=1e-4, rtol=1e-4)
    assert min(first_heads) < 4, "no first step stopped"


@pytest.mark.parametrize("behaviour", ["own", "released"])
@pytest.mark.parametrize("mask", ["full", "streaming"])
def test_how_long_rows_wait_changes_nothing(
    make_talker: MakeTalker, texts: list[Tensor], monkeypatch: pytest.MonkeyPatch, behaviour: str, mask: str
) -> None:
    talker = agreeing(make_talker(behaviour=behaviour, **FEW))
    options = replace(TOLERANT, policy="confidence", mask=mask)  # type: ignore[arg-type]
    said = []
    for limit in (1, 100):
        monkeypatch.setattr(pickers, "MAX_BEHIND", limit)
        said.append(talker.generate(texts[1][None], options, return_logits=True))
    assert torch.equal(said[0][0], said[1][0])
    torch.testing.assert_close(said[0][1], said[1][1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("policy", ADAPTIVE)
@pytest.mark.parametrize("rule", ["own", "paper"])
def test_streamed_equals_offline(make_talker: MakeTalker, texts: list[Tensor], policy: str, rule: str) -> None:
    """With every kind of history, and with what is unfinished at a chunk's border."""
    talker = agreeing(make_talker(mask_rule=rule, **FEW))
    for options in (replace(TOLERANT, policy=policy, mask="streaming"), sampled(TOLERANT, policy)):
        options = replace(options, mask="streaming")
        offline = talker.generate(texts[1][None], options)
        pushes = streamed(talker, texts[1], options)
        assert torch.equal(torch.cat(pushes), offline)
        assert torch.equal(torch.cat(streamed(talker, texts[1], options, 7)), offline)
        assert rule == "paper" or [len(push) for push in pushes[:2]] == [15, 15]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("mask", ["full", "streaming"])
def test_every_pick_is_made_after_all_that_was_said_before_it(
    make_talker: MakeTalker, texts: list[Tensor], policy: str, mask: str
) -> None:
    """Kept tokens are the penalised choice of their head, the history reaching into the step and over its borders."""
    talker = agreeing(make_talker(**FEW))
    penalty = RepetitionPenalty(window=3, factor=3.0, heads="all")
    options = replace(TOLERANT, policy=policy, penalty=penalty, mask=mask)  # type: ignore[arg-type]
    (spoken,) = talker.decode(texts[1:2], options)
    logits = spoken.logits()
    heads = [stat.head for stat in spoken.take_picks() if stat.kept]
    assert sum(head > 0 for head in heads) > 3
    n_changed = 0
    for n, (row, token) in enumerate(zip(logits, spoken.tokens, strict=False)):
        if n < options.min_tokens:
            row[talker.config.eos_id] = -torch.inf
        history = torch.tensor([talker.config.sos_id, *spoken.tokens[:n]])
        assert penalty.apply(row, history).argmax() == token, (n, heads[n])
        n_changed += int(row.argmax() != token)
    assert n_changed > 3
    if policy in ("fixed", "rejection", "confidence"):  # the others' rules ask what the main head may pick
        for best in ({"top_k": 1}, {"top_p": 1e-6}):
            drawn = replace(options, temperature=0.7, seed=1, **best)  # type: ignore[arg-type]
            assert talker.generate(texts[1][None], drawn).tolist() == spoken.tokens


def test_a_list_is_decoded_as_each_alone(make_talker: MakeTalker, texts: list[Tensor]) -> None:
    talker = agreeing(make_talker(**FEW))
    options = replace(sampled(TOLERANT, "rejection"), min_tokens=0)
    for text, tokens in zip(texts, talker.generate(texts, options), strict=True):
        assert torch.equal(tokens, talker.generate(text[None], options))


def test_extreme_settings_are_other_policies(make_talker: MakeTalker, texts: list[Tensor]) -> None:
    talker = make_talker(**FEW)

    def said(policy: str, **changes: Any) -> list[int]:
        options = replace(TOLERANT, policy=policy, **changes)
        return talker.generate(texts[0][None], replace(options, max_tokens=options.min_tokens)).tolist()

    every, one = said("fixed"), said("fixed", tokens_per_step=1)
    assert every != one
    assert said("top_n", top_n=9) == said("typical", alpha=1e-20) == said("confidence", tau=0.0) == every
    assert said("top_n", top_n=1) == said("rejection") == said("confidence", tau=1.1) == one
    assert said("typical", eps=1e9, alpha=1e9) == one


def test_confidence_saves_the_modules(make_talker: MakeTalker, texts: list[Tensor]) -> None:
    """Modules past a stop do not run, but for the rows that have waited long enough."""
    talker = make_talker(**FEW)
    calls = calls_of(talker.head.depths[0].layer)  # type: ignore[index, union-attr]
    talker.generate(texts[0][None], replace(TOLERANT, policy="confidence", tau=1.1, max_tokens=33))
    assert pickers.MAX_BEHIND == 16
    assert len(calls) == 1 + 33 // 17  # the one with text, then one in 17 steps


def eager_to_end(talker: Talker, head: int) -> Talker:
    """Returns a talker of which one module ends at once and no other head ever."""
    with torch.no_grad():
        for k in range(talker.head.n_heads):
            output = talker.head.main if k == 0 else talker.head.depths[k - 1].out  # type: ignore[index, union-attr]
            output.proj.bias[talker.config.eos_id] = 60 if k == head else -60  # type: ignore[operator, union-attr]
    return talker


@pytest.mark.parametrize("policy", POLICIES)
def test_no_end_without_the_main_head(make_talker: MakeTalker, texts: list[Tensor], policy: str) -> None:
    talker = eager_to_end(make_talker(**FEW), 2)
    options = replace(TOLERANT, min_tokens=0, max_tokens=20, policy=policy)
    assert len(talker.generate(texts[0][None], options)) == 20
    assert len(talker.generate(texts[0][None], replace(options, mask="streaming"))) == 20


def test_released_weights_end_by_any_head(make_talker: MakeTalker, texts: list[Tensor]) -> None:
    """As published; groups, which have no main head, end by any of their slots too (test_heads)."""
    talker = eager_to_end(make_talker(behaviour="released", mask_rule="released", **FEW), 2)
    assert len(talker.generate(texts[0][None], DecodeOptions.released(4))) == 2
    session = talker.session(DecodeOptions.released_streaming(4))
    assert session.push(texts[0][None]).tolist()[2:] == [talker.config.eos_id]


@pytest.mark.parametrize("head", ["mtp_vocalnet", "mtp_deepseek", "mtp_parallel_linear"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_where_a_module_wants_to_end_the_main_head_decides(
    make_talker: MakeTalker, texts: list[Tensor], head: str, temperature: float
) -> None:
    """Its logits there, and all that follow, are the teacher-forced ones; alone, in a batch and push by push."""
    n_contested = 0
    for seed in range(6):
        talker = make_talker(head, seed, **FEW)
        options = DecodeOptions(tokens_per_step=4, max_tokens=30, temperature=temperature, seed=seed, mask="streaming")
        batch = talker.generate(texts, options)
        for text, tokens in zip(texts, batch, strict=True):
            (spoken,) = talker.decode([text], options)
            assert spoken.tokens == tokens.tolist()
            if head != "mtp_deepseek":  # see Stream.take_back
                assert torch.equal(torch.cat(streamed(talker, text, options)), tokens)
            logits = spoken.logits()
            stats = spoken.take_picks()
            n_contested += sum(before.kept and not stat.kept for before, stat in pairwise(stats))
            expected = talker.logits([text], [tokens], "streaming")
            heads = [stat.head for stat in stats if stat.kept]
            assert len(tokens) == 30 or heads[-1] == 0
            for n, (row, k) in enumerate(zip(logits, heads, strict=True)):
                torch.testing.assert_close(row, expected[k, 0, n - k], atol=1e-4, rtol=1e-4)
    assert n_contested > 20


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_module_runs_after_an_end_that_one_has_announced(
    make_talker: MakeTalker, texts: list[Tensor], temperature: float
) -> None:
    n_saved = 0
    options = DecodeOptions(tokens_per_step=4, max_tokens=30, temperature=temperature)
    for seed in range(30):
        talker = make_talker(seed=seed, **FEW)
        decoder, module = calls_of(talker.decoder), calls_of(talker.head.depths[0].layer)  # type: ignore[operator, union-attr]
        (spoken,) = talker.decode(texts[:1], replace(options, seed=seed))
        *_, before, last = spoken.take_picks()
        is_saved = spoken.has_ended and last.head == 0 and not before.kept
        assert len(decoder) - len(module) == is_saved
        n_saved += is_saved
    assert 3 <= n_saved <= 27


def calls_of(module: nn.Module) -> list[int]:
    """Returns a list that grows by one with every call of a module."""
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def check(tokens: list[int], probs: list[float], eos_id: int = 3) -> Check:
    """Returns a check of tokens that each stand before the same main head."""
    scores = torch.tensor(probs).log().expand(len(tokens), -1)
    return Check(torch.tensor(tokens), scores, scores, torch.zeros(len(tokens)), eos_id)


def test_rules() -> None:
    four = check([0, 1, 2, 3], [0.5, 0.3, 0.2, 0.0])
    assert POLICIES["greedy_verify"].accepts(four, DecodeOptions()).tolist() == [True, False, False, False]
    assert POLICIES["top_n"].accepts(four, DecodeOptions(top_n=2)).tolist() == [True, True, False, False]
    assert POLICIES["top_n"].accepts(four, DecodeOptions(top_n=4)).tolist() == [True, True, True, False]
    assert POLICIES["typical"].accepts(four, DecodeOptions(eps=0.25, alpha=9.0)).tolist() == [True, True, False, False]
    # exp(-entropy) is 0.357
    assert POLICIES["typical"].accepts(four, DecodeOptions(eps=0.9, alpha=1.0)).tolist() == [True, False, False, False]
    for name in ("typical", "top_n"):  # the main head would end here
        assert not POLICIES[name].accepts(check([0, 3], [0.3, 0.1, 0.1, 0.5]), DecodeOptions())[0]
    kept = policies.count_accepted(POLICIES["top_n"], check([0, 1, 2, 0], [0.5, 0.3, 0.2, 0.0]), DecodeOptions(top_n=2))
    assert kept == 2
    assert policies.count_accepted(POLICIES["rejection"], check([0, 3, 0], [0.5, 0.1, 0.1, 0.3]), DecodeOptions()) == 1


def joint(talker: Talker, text: Tensor, options: DecodeOptions) -> Tensor:
    """Returns the probabilities (V_s, V_s, V_s) of the first three tokens, one per step; after an end comes token 0."""
    V, config = talker.config.vocab_size, talker.config
    pairs = torch.cartesian_prod(torch.arange(V), torch.arange(V))
    logits = talker.logits([text] * len(pairs), list(pairs))[0]  # (V * V, 3, V)
    line = torch.cat([torch.full((len(pairs), 1), config.sos_id), pairs], 1)
    probs = []
    for i in range(3):
        history = line[:, : i + 1]
        penalised = logits[:, i] if options.penalty is None else options.penalty.apply(logits[:, i], history)
        probs.append(probabilities(weigh(penalised, history, options), options).view(V, V, V).double())
    second, third = probs[1][:, 0].clone(), probs[2].clone()
    nothing = torch.eye(V, dtype=torch.double)[0]
    second[config.eos_id] = nothing
    third[config.eos_id] = third[:, config.eos_id] = nothing
    return probs[0][0, 0][:, None, None] * second[..., None] * third


def draw(talker: Talker, text: Tensor, options: DecodeOptions, n: int) -> Tensor:
    """Returns how often each beginning of three tokens was said in n answers, (V_s, V_s, V_s)."""
    V, eos_id = talker.config.vocab_size, talker.config.eos_id
    counts = torch.zeros(V, V, V)
    state = stream.Stream(talker, options)
    state.add_text(text[None])
    for _ in range(n):
        state.lanes[0].rewind(0)
        state.sequence, state.n_fed, state.proposed = state.sequence[:, :1], 0, None
        line: list[int] = []
        while len(line) < 3 and eos_id not in line:
            line += [token for token, _, is_kept in state.step().said()[0] if is_kept]
        line = line[: line.index(eos_id) + 1] if eos_id in line else line
        counts[tuple([*line, 0, 0][:3])] += 1
    return counts


def misfit(counts: Tensor, probs: Tensor) -> float:
    """Returns chi-square in standard deviations from its mean; rare cells (expected below 5) count as one."""
    expected = probs * counts.sum()
    is_rare = expected < 5
    seen = torch.cat([counts[~is_rare], counts[is_rare].sum()[None]])
    due = torch.cat([expected[~is_rare], expected[is_rare].sum()[None]])
    n_free = len(due) - 1
    return float((((seen - due) ** 2 / due).sum() - n_free) / (2 * n_free) ** 0.5)


SMALL = {"n_units": 5, "bos_id": 5, "sos_id": 6, "eos_id": 7, "pad_id": 8, "mtp_num": 2, "n_layers": 1}
REJECTION = DecodeOptions(tokens_per_step=3, policy="rejection", temperature=1.0, seed=0)
RICH = {  # every kind of restriction and of history
    "temperature": 0.8,
    "top_k": 6,
    "top_p": 0.95,
    "penalty": RepetitionPenalty(window=2, factor=1.5, heads="all"),
    "repetition_aware": RepetitionAware(2, 0.5),
}


@torch.inference_mode()
@pytest.mark.parametrize(
    ("head", "n", "changes"),
    [("mtp_parallel_linear", 20_000, {}), ("mtp_parallel_linear", 1500, RICH), ("mtp_vocalnet", 1000, {})],
)
def test_rejection_leaves_the_distribution_of_the_main_head(
    make_talker: MakeTalker, texts: list[Tensor], head: str, n: int, changes: dict[str, Any]
) -> None:
    talker = make_talker(head, **SMALL)
    options = replace(REJECTION, **changes)
    probs = joint(talker, texts[0], options)
    assert probs.sum().item() == pytest.approx(1.0, abs=1e-5)
    assert abs(misfit(draw(talker, texts[0], options, n), probs)) < 4


def greedy_about_doubt(check: Check, options: DecodeOptions) -> Tensor:
    """A wrong rule: accepts whatever the main head likes at least as well as the module did."""
    p, q = (check.of_tokens(probabilities(scores, options)) for scores in (check.scores, check.drawn_by))
    return p >= q


@torch.inference_mode()
@pytest.mark.parametrize("wrong", [{"resamples": False}, {"accepts": greedy_about_doubt}])
def test_a_wrong_rule_of_rejection_is_seen(
    make_talker: MakeTalker, texts: list[Tensor], monkeypatch: pytest.MonkeyPatch, wrong: dict[str, Any]
) -> None:
    talker = make_talker("mtp_parallel_linear", **SMALL)
    monkeypatch.setitem(POLICIES, "rejection", replace(POLICIES["rejection"], **wrong))
    assert misfit(draw(talker, texts[0], REJECTION, 2000), joint(talker, texts[0], REJECTION)) > 6


def test_policies_that_cannot_work_say_so(make_talker: MakeTalker, texts: list[Tensor]) -> None:
    for head in single_heads(make_talker, is_single=False):
        for policy in ADAPTIVE:
            with pytest.raises(ValueError, match="in groups of 3"):
                make_talker(head).session(DecodeOptions(tokens_per_step=3, policy=policy))
    with pytest.raises(ValueError, match="temperature=0"):
        make_talker().generate(texts[0][None], DecodeOptions(policy="greedy_verify", temperature=1.0))


def test_statistics(make_talker: MakeTalker, texts: list[Tensor]) -> None:
    (spoken,) = agreeing(make_talker(**FEW)).decode(texts[:1], replace(TOLERANT, policy="greedy_verify"))
    stats = spoken.take_picks()
    assert [stat.head for stat in stats] == ([0, 1, 2, 3] * len(stats))[: len(stats)]
    counts = acceptance(stats)
    assert counts.n_kept == len(spoken.tokens)
    assert counts.tokens_per_step == counts.n_kept / sum(stat.head == 0 for stat in stats)
    assert 0 < counts.by_head[1] < 1
    assert counts.by_head[0] > 0.9  # all but one that the limit may cut


def test_acceptance() -> None:
    pairs = [(0, True), (1, True), (2, False), (0, True), (1, False), (2, False)]
    counts = acceptance([TokenStat(head, 1.0, 0.5, -0.7, kept) for head, kept in pairs])
    assert (counts.n_steps, counts.n_proposed, counts.n_kept, counts.by_head) == (2, 6, 3, (1.0, 0.5, 0.0))
    assert counts.tokens_per_step == 1.5
    assert acceptance([]).tokens_per_step == 0
