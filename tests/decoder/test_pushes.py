"""Pushes of C_t texts say what the whole text says under the streaming mask, token for token: random talkers, nano."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

import vocalnet
from demo.examples import EXAMPLES
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.options import DecodeOptions, RepetitionPenalty
from vocalnet.decoder.policies import POLICIES
from vocalnet.decoder.talker import Talker
from vocalnet.evaluation import Item
from vocalnet.grid import hear


def pushed(talker: Talker, text: Tensor, options: DecodeOptions) -> Tensor:
    """Returns what a session says to a text (L_t, D) that comes C_t positions at a time."""
    session, C_t = talker.session(options), options.chunked(talker.config).text_chunk
    cuts = [*range(0, len(text), C_t), len(text)]
    return torch.cat([session.push(text[None, a:b], last=b == len(text)) for a, b in pairwise(cuts)])


def draw_options(draws: random.Random, talker: Talker) -> DecodeOptions:
    """Returns options that a talker takes."""
    head = talker.head
    K = draws.randint(head.stride, head.n_heads)
    temperature = draws.choice([0.0, 1.0])
    how = {"tokens_per_step": K, "temperature": temperature}
    policies = [name for name in POLICIES if _is_possible(talker, DecodeOptions(policy=name, **how))]
    n_tokens = draws.randint(5, 70)
    return DecodeOptions(
        **how,
        policy=draws.choice(policies),
        penalty=draws.choice([None, RepetitionPenalty()]),
        min_tokens=draws.choice([0, n_tokens]),
        max_tokens=n_tokens,
        seed=draws.randint(0, 99),
        mask="streaming",
        text_chunk=draws.choice([None, 1, 3]),
        speech_chunk=draws.choice([None, 12]),
    )


def _is_possible(talker: Talker, options: DecodeOptions) -> bool:
    try:
        talker.session(options)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("seed", range(50))
def test_a_random_talker(make_talker: Callable[..., Talker], seed: int) -> None:
    draws = random.Random(seed)
    head = draws.choice(list(HEADS))
    rule = draws.choice(["own", "paper"])
    layers = {"n_layers": draws.randint(1, 3), "n_projector_layers": draws.randint(1, 2)}
    talker = make_talker(head, seed, mask_rule=rule, text_chunk=draws.randint(2, 6), **layers)
    text = torch.randn(draws.randint(1, 30), 24, generator=torch.Generator().manual_seed(seed))
    options = draw_options(draws, talker)
    whole = talker.generate(text[None], options)
    assert isinstance(whole, Tensor)
    assert torch.equal(pushed(talker, text, options), whole)


def test_nano() -> None:
    model = vocalnet.load("nano")
    for number, example in enumerate(EXAMPLES[:3]):
        for text in hear(model, Item(str(number), str(example.path), "")).segments:
            for K in (1, 3, 5):
                options = DecodeOptions(tokens_per_step=K, mask="streaming", max_tokens=200)
                whole = model.talker.generate(text[None], options)
                assert len(whole) > 10
                assert torch.equal(pushed(model.talker, text, options), whole)
