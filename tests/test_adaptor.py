"""The downsample adaptor against a loop over groups."""

from __future__ import annotations

import torch

from vocalnet.adaptor import Adaptor


def test_groups_are_joined_and_the_tail_is_dropped() -> None:
    torch.manual_seed(0)
    adaptor = Adaptor(in_dim=3, hidden_dim=7, out_dim=4, rate=5)
    features = torch.randn(2, 13, 3)
    out = adaptor(features)
    assert out.shape == (2, 2, 4)
    for group in range(2):
        joined = torch.cat([features[:, 5 * group + i] for i in range(5)], -1)
        expected = adaptor.linear2(adaptor.linear1(joined).clamp(min=0))
        torch.testing.assert_close(out[:, group], expected)
    torch.testing.assert_close(adaptor(features[:, :10]), out)


def test_fewer_frames_than_a_group_give_no_embedding() -> None:
    assert Adaptor(3, 7, 4)(torch.randn(1, 4, 3)).shape == (1, 0, 4)
