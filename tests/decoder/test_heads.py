"""What every head of the registry must do; a new row in HEADS is tested by being there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.heads.contract import IGNORE
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker

MASKS = ("full", "streaming")
every_head = pytest.mark.parametrize("head", HEADS)
every_mask = pytest.mark.parametrize("mask", MASKS)


def step_sizes(talker: Talker) -> list[int]:
    """Returns every number of tokens per step that a talker takes."""
    stride = talker.head.stride
    return list(range(1, talker.head.n_heads + 1)) if stride == 1 else [stride]


def place(n: int, K: int, stride: int) -> tuple[int, int]:
    """Returns head and row that picked token n (0 = the first) at K tokens per step."""
    return n % K, n // K * K // stride


@every_head
def test_shapes(make_talker: Callable[..., Talker], texts: list[Tensor], head: str) -> None:
    talker = make_talker(head)
    K, stride = talker.head.n_heads, talker.head.stride
    tokens = [torch.arange(n) for n in (12, 5, 9, 30)]
    L_s = 1 + 30 // stride
    logits = talker.logits(texts, tokens)
    loss = talker.loss(texts, tokens, ["full", "streaming", "full", "streaming"])
    assert logits.shape == (K, 4, L_s, 49)
    assert loss.labels.shape == (K, 4, L_s)
    assert loss.heads.shape == loss.accuracy.shape == (K,)
    assert loss.visible.shape == (1 + talker.head.n_depths, 4, 19 + L_s, 19 + L_s)
    assert loss.total.dim() == 0


@every_head
def test_targets_are_the_tokens_after_each_row(make_talker: Callable[..., Talker], head: str) -> None:
    talker = make_talker(head)
    stride, eos = talker.head.stride, talker.config.eos_id
    line = [7, 3, 9, 1, eos]
    labels = talker.loss([torch.zeros(2, 24)], [torch.tensor(line[:-1])]).labels
    for k in range(labels.shape[0]):
        for row in range(labels.shape[2]):
            n = row * stride + k
            assert labels[k, 0, row] == (line[n] if n < len(line) else IGNORE), (k, row)


@every_head
@every_mask
def test_loss_is_the_weighted_cross_entropy_of_the_logits(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str
) -> None:
    talker = make_talker(head)
    tokens = [torch.arange(n) for n in (12, 1, 0, 30)]  # fewer tokens than heads must do
    loss, logits = talker.loss(texts, tokens, mask), talker.logits(texts, tokens, mask)
    weights = talker.head.weights(talker.config.loss_decay)
    total = torch.zeros(())
    for k, weight in enumerate(weights):
        rows = logits[k].flatten(0, 1)
        mean = torch.nn.functional.cross_entropy(rows, loss.labels[k].flatten(), ignore_index=IGNORE)
        torch.testing.assert_close(loss.heads[k], mean.detach())
        total = total + weight * mean
    torch.testing.assert_close(loss.total, total)


@every_head
@every_mask
def test_batch_mates_do_not_matter(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str
) -> None:
    talker = make_talker(head)
    tokens = [torch.arange(n) for n in (12, 6, 0, 30)]
    together = talker.logits(texts, tokens, mask)
    for b, (text, line) in enumerate(zip(texts, tokens, strict=True)):
        alone = talker.logits([text], [line], mask)
        torch.testing.assert_close(together[:, b : b + 1, : alone.shape[2]], alone, atol=1e-4, rtol=1e-4)


@every_head
@every_mask
def test_causality_by_gradient(make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str) -> None:
    """A row's prediction depends on the text that its mask shows, on earlier tokens, and on nothing else."""
    talker = make_talker(head, n_units=60, bos_id=60, sos_id=61, eos_id=62, pad_id=63)
    stride = talker.head.stride
    tokens = torch.arange(36)  # each token once, so that a row of the embedding's gradient is a position
    text = texts[1].clone().requires_grad_()
    logits = talker.logits([text], [tokens], mask)
    for row in (0, 2, 36 // stride // 2, 36 // stride):
        # The main head: deeper ones may be fed their own step's tokens (DeepSeek).
        by_text, by_embedding = torch.autograd.grad(
            logits[0, 0, row].sum(), [text, talker.embedding.weight], retain_graph=True
        )
        n_seen = 18 if mask == "full" else min(18, (row * stride // 15 + 1) * 5)
        assert (by_text.abs().sum(-1) > 0).tolist() == [j < n_seen for j in range(18)]
        assert (by_embedding[:36].abs().sum(-1) > 0).tolist() == [n < row * stride for n in range(36)]


@every_head
@every_mask
def test_cached_decoding_equals_teacher_forcing(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str
) -> None:
    talker = make_talker(head)
    for K in step_sizes(talker):
        options = DecodeOptions(tokens_per_step=K, max_tokens=40, mask=mask)
        tokens, logits = talker.generate(texts[1][None], options, return_logits=True)
        expected = talker.logits([texts[1]], [tokens], mask)
        assert len(tokens) > K
        for n, row in enumerate(logits):
            head_row = place(n, K, talker.head.stride)
            torch.testing.assert_close(row, expected[head_row[0], 0, head_row[1]], atol=1e-4, rtol=1e-4)


@every_head
@every_mask
def test_a_list_is_decoded_as_one_batch(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str
) -> None:
    talker = make_talker(head)
    for K in step_sizes(talker):
        options = DecodeOptions(tokens_per_step=K, max_tokens=40, mask=mask, temperature=0.8, seed=5)
        for text, tokens in zip(texts, talker.generate(texts, options), strict=True):
            assert torch.equal(tokens, talker.generate(text[None], options))


@every_head
@pytest.mark.parametrize(("seed", "temperature"), [(0, 0.0), (1, 0.0), (2, 0.0), (3, 1.0)])
def test_streamed_equals_offline(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, seed: int, temperature: float
) -> None:
    talker = make_talker(head, seed)
    for K in step_sizes(talker):
        options = DecodeOptions(
            tokens_per_step=K, max_tokens=40, min_tokens=32, mask="streaming", temperature=temperature, seed=seed
        )
        for text in texts[2:]:
            offline = talker.generate(text[None], options)
            for size in (5, 7):
                session = talker.session(options)
                pushes = [session.push(text[None, i : i + size]) for i in range(0, len(text), size)]
                pushes.append(session.push(None, last=True))
                assert torch.equal(torch.cat(pushes), offline), (K, size)
                if size == 5:
                    assert [len(push) for push in pushes[: len(text) // 5]] == [15] * (len(text) // 5)


@every_head
def test_two_interleaved_sessions(make_talker: Callable[..., Talker], texts: list[Tensor], head: str) -> None:
    """State lives in sessions: two at once on one talker say what each says alone."""
    talker = make_talker(head)
    options = DecodeOptions(tokens_per_step=step_sizes(talker)[-1], max_tokens=40, mask="streaming")
    sessions = [talker.session(options) for _ in range(2)]
    said: list[list[Tensor]] = [[], []]
    for start in range(0, 20, 5):
        for session, text, parts in zip(sessions, texts[1:3], said, strict=True):
            chunk = text[None, start : start + 5]
            parts.append(session.push(chunk if chunk.shape[1] else None, last=start == 15))
    for text, parts in zip(texts[1:3], said, strict=True):
        assert torch.equal(torch.cat(parts), talker.generate(text[None], options))


@every_head
def test_generation_ends(make_talker: Callable[..., Talker], texts: list[Tensor], head: str) -> None:
    talker = make_talker(head)
    eos = talker.config.eos_id
    for K in step_sizes(talker):
        options = DecodeOptions(tokens_per_step=K, max_tokens=17, min_tokens=17)
        assert len(talker.generate(texts[0][None], options)) == 17
        free = DecodeOptions(tokens_per_step=K, max_tokens=60, temperature=3.0, seed=1)
        tokens, logits = talker.generate(texts[0][None], free, return_logits=True)
        assert eos not in tokens
        assert len(logits) == len(tokens) + (len(tokens) < 60)  # the end token's row is there too


@every_head
def test_inputs_are_not_written_to(make_talker: Callable[..., Talker], texts: list[Tensor], head: str) -> None:
    talker = make_talker(head)
    tokens = [torch.tensor([3, 4, -100, -100]), torch.arange(9), torch.arange(2), torch.arange(5)]
    kept = [x.clone() for x in (*texts, *tokens)]
    talker.loss(texts, tokens, "streaming").total.backward()
    talker.generate(texts, replace(talker.default_options(), max_tokens=10))
    assert all(torch.equal(a, b) for a, b in zip(kept, (*texts, *tokens), strict=True))


@every_head
def test_a_few_training_steps_learn_a_sentence(make_talker: Callable[..., Talker], head: str) -> None:
    talker = make_talker(head, dropout=0.0).train()
    torch.manual_seed(0)
    text, tokens = torch.randn(6, 24), torch.randint(0, 45, (24,))
    optimiser = torch.optim.AdamW(talker.parameters(), lr=1e-2)
    for _ in range(40):
        loss = talker.loss([text, text], [tokens, tokens], ["full", "streaming"])
        optimiser.zero_grad()
        loss.total.backward()
        optimiser.step()
    talker.eval()
    for mask in MASKS:
        for K in step_sizes(talker):
            options = DecodeOptions(tokens_per_step=K, mask=mask, max_tokens=40)
            assert talker.generate(text[None], options).tolist() == tokens.tolist()
