"""Truth tables of the talker's masks."""

from __future__ import annotations

import pytest
import torch

from vocalnet.masks import attention_mask, first_speech_row, full_mask, streaming_mask

N_TEXT, N_SPEECH = torch.tensor([14]), torch.tensor([35])  # begin included, start token included


def text_counts(mask: torch.Tensor, n_text: int) -> list[int]:
    """Returns how many text positions each speech row of the first sample sees."""
    return mask[0, n_text:, :n_text].sum(-1).tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("paper", [1] + [6] * 15 + [11] * 15 + [14] * 4),
        ("released", [5] * 16 + [10] * 15 + [14] * 4),
        ("own", [6] * 15 + [11] * 15 + [14] * 5),
    ],
)
def test_streaming_rules(rule: str, expected: list[int]) -> None:
    mask = streaming_mask(N_TEXT, N_SPEECH, rule=rule)
    assert text_counts(mask, 14) == expected
    assert torch.equal(mask[0, :14, :14], torch.ones(14, 14).tril().bool())  # text is causal
    assert torch.equal(mask[0, 14:, 14:], torch.ones(35, 35).tril().bool())  # speech too
    assert not mask[0, :14, 14:].any()  # text never sees speech


def test_paper_rule_is_equation_3() -> None:
    """Evaluates Eq. 3 term by term, with 1-based i and j as printed."""
    L_t, L_s, C_t, C_s = 9, 20, 3, 6
    mask = streaming_mask(torch.tensor([L_t]), torch.tensor([L_s]), C_t, C_s, rule="paper")[0]
    for i in range(1, L_t + L_s + 1):
        for j in range(1, L_t + L_s + 1):
            chunk = -(-(i - L_t - 1) // C_s)
            is_visible = (
                (i <= L_t and i >= j) or (i > L_t and i >= j > L_t) or (i > L_t and j <= min(L_t, chunk * C_t + 1))
            )
            assert bool(mask[i - 1, j - 1]) == is_visible, (i, j)


def test_full_mask() -> None:
    mask = full_mask(torch.tensor([3]), torch.tensor([2]))[0].int().tolist()
    assert mask == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_released_depth_shifts_text_and_drops_rows_without_target() -> None:
    counts = text_counts(streaming_mask(N_TEXT, N_SPEECH, rule="released", depth=2), 14)
    assert counts == [5] * 14 + [10] * 15 + [14] * 4 + [0] * 2
    assert not full_mask(torch.tensor([3]), torch.tensor([4]), depth=1)[0, -1].any()


@pytest.mark.parametrize("rule", ["own", "paper"])
def test_other_rules_are_the_same_at_every_depth(rule: str) -> None:
    masks = [streaming_mask(N_TEXT, N_SPEECH, rule=rule, depth=depth) for depth in range(3)]
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_padding_sees_nothing_and_is_not_seen() -> None:
    mask = streaming_mask(torch.tensor([2, 4]), torch.tensor([3, 1]))  # (2, 7, 7)
    unused = torch.tensor([[0, 0, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 1, 1]]).bool()
    assert not mask[unused].any()
    assert not mask.transpose(1, 2)[unused].any()
    assert mask[1, 4, :5].all()


def test_a_batch_may_mix_masks() -> None:
    n_text, n_speech = torch.tensor([8, 8]), torch.tensor([20, 20])
    mixed = attention_mask(n_text, n_speech, torch.tensor([False, True]))
    assert torch.equal(mixed[0], full_mask(n_text, n_speech)[0])
    assert torch.equal(mixed[1], streaming_mask(n_text, n_speech)[1])


def test_rows_of_several_tokens_see_the_text_of_their_first_prediction() -> None:
    is_streaming = torch.tensor([True])
    by_token = attention_mask(N_TEXT, N_SPEECH, is_streaming)
    by_group = attention_mask(N_TEXT, torch.tensor([12]), is_streaming, stride=3)
    assert text_counts(by_group, 14) == text_counts(by_token, 14)[::3]


@pytest.mark.parametrize("rule", ["own", "paper", "released"])
def test_first_speech_row_inverts_the_table(rule: str) -> None:
    opens = first_speech_row(torch.arange(14), rule, 5, 15)
    expected = [int((opens <= row).sum()) for row in range(35)]
    assert text_counts(streaming_mask(N_TEXT, N_SPEECH, rule=rule), 14) == expected


def test_unknown_rule_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="own, paper, released"):
        streaming_mask(N_TEXT, N_SPEECH, rule="eq3")
