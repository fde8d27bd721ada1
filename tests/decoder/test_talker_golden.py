"""The published implementation's numbers from its own weights: networks, decoding, training.

Tolerances leave about ten times the measured movement between float32 and float64; tokens must match exactly.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from vocalnet.decoder.options import DecodeOptions, RepetitionPenalty

MASKS = {"full": "full", "stream": "streaming"}


def near(actual: Tensor, expected: Tensor, atol: float, rtol: float = 0.0) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol)


def offline(K: int, is_penalised: bool = False) -> DecodeOptions:
    penalty = RepetitionPenalty.released_offline() if is_penalised else None
    return DecodeOptions(tokens_per_step=K, penalty=penalty, max_tokens=80, count="released")


def answer(recorded: Tensor, eos_id: int) -> Tensor:
    """Returns a recorded offline sequence without its start token and a final end token."""
    return recorded[1:-1] if recorded[-1] == eos_id else recorded[1:]


def train_batch(golden: Any, variant: str = "eos") -> tuple[list[Tensor], list[Tensor]]:
    inputs = golden.inputs
    end = inputs["train.txt_eos_emb"][0] if variant == "eos" else None
    pairs = zip(inputs["train.llm_hidden"], inputs["train.llm_labels"], strict=True)
    return [golden.talker.text_rows(states, labels, end) for states, labels in pairs], list(
        inputs["train.speech_tokens"]
    )


def test_adaptor(golden: Any) -> None:
    near(golden.talker.adapt(golden.inputs["projector.features"]), golden.expected["projector.out"], 1e-5)


def test_projector(golden: Any) -> None:
    texts = [golden.inputs[f"hidden.{i}"] for i in range(4)]
    for i, text in enumerate(texts):
        near(golden.talker.project(text), golden.expected[f"pre_nn.{i}"], 5e-5)
    lengths = torch.tensor([text.shape[1] for text in texts])
    padded = torch.nn.utils.rnn.pad_sequence([text[0] for text in texts], batch_first=True)
    near(golden.talker.project(padded, lengths), golden.expected["pre_nn.batch"], 5e-5)


@pytest.mark.parametrize("i", range(4))
def test_first_and_second_step(golden: Any, i: int) -> None:
    options = dataclasses.replace(offline(6), min_tokens=80)  # no end token is picked: all of a step is there
    _, logits = golden.talker.generate(golden.inputs[f"hidden.{i}"], options, return_logits=True)
    for step, name in enumerate(("first_step", "second_step")):
        expected = golden.expected.get(f"{name}.{i}")
        if expected is not None:
            near(logits[6 * step : 6 * step + 6], expected, 2e-4)


def test_every_step(golden: Any) -> None:
    _, logits = golden.talker.generate(golden.inputs["hidden.3"], offline(4), return_logits=True)
    near(logits, golden.expected["steps.n3.pen0.3"], 2e-4)


@pytest.mark.parametrize("K", range(1, 7))
@pytest.mark.parametrize("window", [0, 5])
def test_offline_tokens(golden: Any, K: int, window: int) -> None:
    texts = [golden.inputs[f"hidden.{i}"] for i in range(4)]
    prefix = f"predict.pen{window}" if K == 1 else f"predict_mtp.n{K - 1}.pen{window}"
    options = offline(K, is_penalised=window > 0)
    batch = golden.talker.generate(texts, options)
    for i, text in enumerate(texts):
        expected = answer(golden.expected[f"{prefix}.{i}.tokens"], golden.talker.config.eos_id)
        assert torch.equal(golden.talker.generate(text, options), expected), i
        assert torch.equal(batch[i], expected), f"{i} in a batch"


def stream_cases() -> list[tuple[int, str]]:
    return [(K, penalty) for K in range(2, 7) for penalty in ("pen6", "nopen")] + [(4, "window0")]


@pytest.mark.parametrize(("K", "penalty"), stream_cases())
def test_streamed_tokens(golden: Any, K: int, penalty: str) -> None:
    """Includes calls that end inside a step (15 tokens by 2, 4, 6), where the published caches drift apart."""
    published = RepetitionPenalty.released_streaming()
    settings = {"pen6": published, "nopen": None, "window0": dataclasses.replace(published, window=0)}
    options = dataclasses.replace(
        DecodeOptions.released_streaming(K), penalty=settings[penalty], max_tokens=golden.cases["max_tokens"]
    )
    for i in range(4):
        name = f"stream.feed5.n{K - 1}.{penalty}.{i}"
        text = golden.inputs[f"stream_hidden.{i}"]
        session = golden.talker.session(options)
        plan = golden.cases["stream_plans"][f"stream_hidden.{i}"]["5"]
        calls = [session.push(None if a is None else text[:, a:b], last=last) for a, b, last in plan]
        assert [len(call) for call in calls] == golden.expected[f"{name}.chunk_lens"].tolist()
        assert torch.equal(torch.cat(calls), golden.expected[f"{name}.tokens"])


def test_a_call_that_starts_with_few_tokens_repeats_as_few(golden: Any) -> None:
    """C_s = 4 < K - 1, which no recorded case has: said by an independent rewriting of the published loop."""
    options = dataclasses.replace(DecodeOptions.released_streaming(6), speech_chunk=4, max_tokens=40)
    session = golden.talker.session(options)
    text = golden.inputs["stream_hidden.1"][:, :8]
    assert session.push(text[:, :5]).tolist() == [6, 34, 44, 29]
    rest = [12, 31, 38, 31, 20, 0, 29, 25, 35, 2, 17, 37, 1, 17, 34, 29, 29, 27, 46, 34, 20, 16, 36, 17, 39, 7]
    assert session.push(text[:, 5:], last=True).tolist()[: len(rest)] == rest


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [DecodeOptions.released(), DecodeOptions.released_streaming()])
def test_released_decoding_in_half_precision(golden: Any, dtype: torch.dtype, options: DecodeOptions) -> None:
    talker = copy.deepcopy(golden.talker).to(dtype)
    tokens = talker.generate(golden.inputs["hidden.2"], dataclasses.replace(options, max_tokens=20, min_tokens=20))
    assert len(tokens) >= 20


def test_generate_streams_a_whole_text_in_chunks(golden: Any) -> None:
    options = dataclasses.replace(DecodeOptions.released_streaming(3), max_tokens=80)
    tokens, logits = golden.talker.generate(golden.inputs["stream_hidden.3"], options, return_logits=True)
    expected = golden.expected["stream.feed5.n2.pen6.3.tokens"]
    assert torch.equal(tokens, expected[expected != golden.talker.config.eos_id])
    assert len(logits) == len(expected)


def test_penalty(golden: Any) -> None:
    penalty = RepetitionPenalty.released_offline()
    for raw, window, out in zip(
        *(golden.expected[f"penalty.{name}"] for name in ("raw", "window", "out")), strict=True
    ):
        near(penalty.apply(raw, window[window >= 0]), out, 1e-5)
        near(penalty.apply(raw, window), out, 1e-5)


@pytest.mark.parametrize("mode", MASKS)
@pytest.mark.parametrize("variant", ["eos", "plain"])
def test_training_loss(golden: Any, mode: str, variant: str) -> None:
    loss = golden.talker.loss(*train_batch(golden, variant), MASKS[mode], positions="batch")
    near(loss.total.detach()[None], golden.expected[f"train.{mode}.{variant}.total"], 0, rtol=2e-5)
    near(loss.heads, golden.expected[f"train.{mode}.{variant}.heads"], 0, rtol=2e-5)


@pytest.mark.parametrize("mode", MASKS)
def test_a_sample_alone_has_its_own_positions(golden: Any, mode: str) -> None:
    """Per-sample positions give the lone sample's loss whether or not it has batch mates."""
    hidden, tokens = train_batch(golden)
    for i in range(3):
        loss = golden.talker.loss(hidden[i : i + 1], tokens[i : i + 1], MASKS[mode])
        near(loss.total.detach()[None], golden.expected[f"train.{mode}.eos.single.{i}.total"], 0, rtol=2e-5)
        near(loss.heads, golden.expected[f"train.{mode}.eos.single.{i}.heads"], 0, rtol=2e-5)
    batch = golden.talker.logits(hidden, tokens, MASKS[mode])
    alone = golden.talker.logits(hidden[:1], tokens[:1], MASKS[mode])
    near(batch[:, :1, : alone.shape[2]][golden_targets(golden, alone)], alone[golden_targets(golden, alone)], 2e-4)


def golden_targets(golden: Any, alone: Tensor) -> Tensor:
    return golden.expected["train.labels"][:, :1, : alone.shape[2]] >= 0


@pytest.mark.parametrize("mode", MASKS)
def test_training_targets_masks_and_logits(golden: Any, mode: str) -> None:
    hidden, tokens = train_batch(golden)
    before = [token.clone() for token in tokens]
    loss = golden.talker.loss(hidden, tokens, MASKS[mode], positions="batch")
    assert torch.equal(loss.labels, golden.expected["train.labels"])
    assert torch.equal(loss.visible, golden.expected[f"train.{mode}.eos.visible"].bool())
    logits = golden.talker.logits(hidden, tokens, MASKS[mode], positions="batch")
    near(logits * (loss.labels >= 0)[..., None], golden.expected[f"train.{mode}.eos.logits"], 2e-4)
    assert all(torch.equal(a, b) for a, b in zip(before, tokens, strict=True))


@pytest.mark.parametrize("mode", MASKS)
def test_gradients(golden: Any, mode: str) -> None:
    talker = golden.talker
    talker.zero_grad()
    talker.loss(*train_batch(golden), MASKS[mode], positions="batch", mask_rule="released").total.backward()
    prefix = f"train.{mode}.eos.grad."
    for name in [name for name in golden.expected if name.startswith(prefix)]:
        near(talker.parameter(name.removeprefix(prefix)).grad, golden.expected[name], 2e-5)
    for key, norm in golden.cases["grad_norms"][mode].items():
        assert talker.parameter(key).grad.norm().item() == pytest.approx(norm, rel=1e-4), key
    talker.zero_grad()
