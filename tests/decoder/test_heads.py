"""What every head of the registry must do; a new row in HEADS is tested by being there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from readme import adding_a_head
from torch import Tensor

from vocalnet.config import TalkerConfig, from_dict
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.heads.contract import IGNORE
from vocalnet.decoder.load import load_talker, save_talker
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "train" / "configs"
MASKS = ("full", "streaming")
GROUPS = [head for head in HEADS if HEADS[head](TalkerConfig(dim=4, ffn_dim=4, n_heads=1)).stride > 1]
NAMES = [name for head in HEADS for name in ([f"{head}_3", f"{head}_5"] if head in GROUPS else [head])]
every_head = pytest.mark.parametrize("head", NAMES)
every_mask = pytest.mark.parametrize("mask", MASKS)


@pytest.fixture
def make_talker(make_talker: Callable[..., Talker]) -> Callable[..., Talker]:
    """Builds a tiny talker of one of NAMES: a head, with its group size where it has one."""

    def make(name: str = "mtp_vocalnet", *args: Any, **changes: Any) -> Talker:
        if name in HEADS:
            return make_talker(name, *args, **changes)
        head, _, size = name.rpartition("_")
        return make_talker(head, *args, **{"group_size": int(size)} | changes)

    return make


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
@pytest.mark.parametrize("n", [0, 1, 4, 6])
def test_targets_are_the_tokens_after_each_row(make_talker: Callable[..., Talker], head: str, n: int) -> None:
    talker = make_talker(head)
    stride, eos = talker.head.stride, talker.config.eos_id
    line = [*range(n), eos]
    mate = torch.arange(7)  # longer, so that the sample is padded
    labels = talker.loss([torch.zeros(2, 24)] * 2, [torch.arange(n), mate]).labels[:, 0]
    for k, row in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        place = row * stride + k
        assert labels[k, row] == (line[place] if place < len(line) else IGNORE), (k, row)


@pytest.mark.parametrize("head", GROUPS)
def test_slots_after_the_end_have_no_label(make_talker: Callable[..., Talker], head: str) -> None:
    def labels(n: int) -> list[list[int]]:
        return make_talker(head).loss([torch.zeros(2, 24)], [torch.arange(n)]).labels[:, 0].T.tolist()

    assert labels(2) == [[0, 1, 47], [IGNORE] * 3]  # the row that the padded group enters predicts nothing
    assert labels(3) == [[0, 1, 2], [47, IGNORE, IGNORE]]
    assert labels(4) == [[0, 1, 2], [3, 47, IGNORE], [IGNORE] * 3]


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
    together, labels = talker.logits(texts, tokens, mask), talker.loss(texts, tokens, mask).labels
    for b, (text, line) in enumerate(zip(texts, tokens, strict=True)):
        alone = talker.logits([text], [line], mask)[:, 0]
        n_rows = alone.shape[1]
        is_target = labels[:, b, :n_rows] != IGNORE  # what else DeepSeek's modules are fed past the end is padding
        assert is_target.sum() == (labels[:, b] != IGNORE).sum() > 0
        torch.testing.assert_close(together[:, b, :n_rows][is_target], alone[is_target], atol=1e-4, rtol=1e-4)


@every_head
@every_mask
def test_causality_by_gradient(make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str) -> None:
    """A prediction depends on the text that its row's mask shows, on the tokens of its row and before it, and on
    nothing that comes at or after its own token."""
    talker = make_talker(head, n_units=60, bos_id=60, sos_id=61, eos_id=62, pad_id=63)
    stride = talker.head.stride
    tokens = torch.arange(36)  # each token once, so that a row of the embedding's gradient is a position
    text = texts[1].clone().requires_grad_()
    logits = talker.logits([text], [tokens], mask)
    for row in (0, 2, 36 // stride // 2, 36 // stride - 4):
        n_seen = 18 if mask == "full" else min(18, (row * stride // 15 + 1) * 5)
        for k in range(talker.head.n_heads):
            by_text, by_embedding = torch.autograd.grad(
                logits[k, 0, row].sum(), [text, talker.embedding.weight], retain_graph=True
            )
            assert (by_text.abs().sum(-1) > 0).tolist() == [j < n_seen for j in range(18)], (row, k)
            reads = (by_embedding[:36].abs().sum(-1) > 0).tolist()
            n_read = reads.index(False)
            assert reads == [n < n_read for n in range(36)]
            assert row * stride <= n_read <= row * stride + k, (row, k)


@every_head
@every_mask
def test_cached_decoding_equals_teacher_forcing(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str
) -> None:
    talker = make_talker(head)
    for K in step_sizes(talker):
        options = DecodeOptions(tokens_per_step=K, max_tokens=40, min_tokens=20, mask=mask)
        (spoken,) = talker.decode([texts[1]], options)
        logits = spoken.logits()
        heads = [stat.head for stat in spoken.take_picks() if stat.kept]
        expected = talker.logits([texts[1]], [torch.tensor(spoken.tokens)], mask)
        assert len(spoken.tokens) > K
        for n, (row, k) in enumerate(zip(logits, heads, strict=True)):
            torch.testing.assert_close(row, expected[k, 0, (n - k) // talker.head.stride], atol=1e-4, rtol=1e-4)


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


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("group_size", [4, 5])
def test_steps_need_not_divide_a_chunk(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, group_size: int
) -> None:
    """A chunk is 15 tokens: rows of 4 straddle its border, and what they say beyond it is held back."""
    talker = make_talker(head, group_size=group_size, mtp_num=group_size - 1)
    K = talker.head.n_heads
    options = DecodeOptions(tokens_per_step=K, max_tokens=53, min_tokens=53, mask="streaming")
    tokens, logits = talker.generate(texts[1][None], options, return_logits=True)
    expected = talker.logits([texts[1]], [tokens], "streaming")
    for n, row in enumerate(logits):
        k, i = place(n, K, talker.head.stride)
        torch.testing.assert_close(row, expected[k, 0, i], atol=1e-4, rtol=1e-4)
    session = talker.session(options)
    pushes = [session.push(texts[1][None, i : i + 5], last=i == 15) for i in range(0, 20, 5)]
    assert [len(push) for push in pushes] == [15, 15, 15, 8]
    assert torch.equal(torch.cat(pushes), tokens)


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
@every_mask
def test_an_end_token_ends_at_any_place_of_a_step(
    make_talker: Callable[..., Talker], texts: list[Tensor], head: str, mask: str
) -> None:
    talker = make_talker(head)
    eos, vocab_size = talker.config.eos_id, talker.config.vocab_size
    for bias in talker.head.parameters():
        if bias.shape == (vocab_size,):
            bias.data[eos] = 1e4  # wherever it may, every head ends the answer
    for K in step_sizes(talker):
        for n in range(K + 2):
            options = DecodeOptions(tokens_per_step=K, min_tokens=n, mask=mask)
            tokens, logits = talker.generate(texts[1][None], options, return_logits=True)
            assert (len(tokens), len(logits)) == (n, n + 1)
            assert logits[-1].argmax() == eos


@every_head
def test_save_and_load(make_talker: Callable[..., Talker], texts: list[Tensor], head: str, tmp_path: Path) -> None:
    talker = make_talker(head)
    save_talker(talker, tmp_path)
    again = load_talker(tmp_path)
    options = replace(talker.default_options(), max_tokens=20)
    assert again.config == talker.config
    assert torch.equal(again.generate(texts[0][None], options), talker.generate(texts[0][None], options))


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
    text, tokens = torch.randn(6, 24), torch.randint(0, 45, (25,))  # ends inside a group
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


@pytest.mark.parametrize("head", GROUPS)
def test_groups_are_not_decoded_the_published_way(make_talker: Callable[..., Talker], head: str) -> None:
    with pytest.raises(ValueError, match='needs behaviour "own"'):
        make_talker(head, behaviour="released")


def test_group_sizes_are_separate_weights(make_talker: Callable[..., Talker], texts: list[Tensor]) -> None:
    with pytest.raises(ValueError, match=r"tokens_per_step is 3; this talker \(group_linear\) takes 5"):
        make_talker("group_linear", group_size=5).generate(texts[0][None], DecodeOptions(tokens_per_step=3))


def head_configs() -> dict[str, dict[str, Any]]:
    """Returns what each yaml in train/configs/heads changes in a talker's config."""
    return {path.stem: yaml.safe_load(path.read_text()) for path in (CONFIGS / "heads").glob("*.yaml")}


def test_every_head_has_a_yaml_that_loads() -> None:
    sizes = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())["model"]["talker"]
    for name, changes in head_configs().items():
        talker = Talker(from_dict(TalkerConfig, sizes | changes, name))
        size = talker.head.stride if talker.head.stride > 1 else talker.config.mtp_num
        assert name in (talker.config.head, f"{talker.config.head}_{size}")
    assert {changes["head"] for changes in head_configs().values()} == set(HEADS)


def test_adding_a_head_as_the_readme_says(
    make_talker: Callable[..., Talker], texts: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Follows the page: its file and its row make a head that does what every head must."""
    page = adding_a_head()
    monkeypatch.setitem(HEADS, page.name, page.head)
    assert yaml.safe_load(page.config) == {"head": page.name}
    test_shapes(make_talker, texts, page.name)
    test_targets_are_the_tokens_after_each_row(make_talker, page.name, 4)
    test_generation_ends(make_talker, texts, page.name)
    test_streamed_equals_offline(make_talker, texts, page.name, 0, 0.0)
    test_a_few_training_steps_learn_a_sentence(make_talker, page.name)
    for mask in MASKS:
        test_causality_by_gradient(make_talker, texts, page.name, mask)
        test_cached_decoding_equals_teacher_forcing(make_talker, texts, page.name, mask)
