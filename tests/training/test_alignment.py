"""How speech is brought to the LLM's own embeddings: text at the pace of speech, and the adaptor's CTC logits."""

import copy
import random
from collections import Counter
from dataclasses import replace

import torch

from vocalnet.adaptor import group_frames
from vocalnet.decoder.talker import Talker
from vocalnet.training.data import pick_entries
from vocalnet.training.speeches import Speeches
from vocalnet.training.stage_pace import TokenReader, encode_clips, start_at_head
from vocalnet.training.stage_talker import alike, corrupted, fit_talker, swayed
from vocalnet.training.stage_text import at_spoken_pace, pause_id, train_bpe

PAUSE = 9


def test_paced_tokens_say_the_same_when_pauses_and_repeats_are_taken_out() -> None:
    rng = random.Random(0)
    for _ in range(50):
        paced = at_spoken_pace([3, 5, 4, 5], PAUSE, rng)
        collapsed = torch.unique_consecutive(torch.tensor(paced))
        assert collapsed[collapsed != PAUSE].tolist() == [3, 5, 4, 5]


def test_paced_tokens_are_about_as_many_as_audio_embeddings() -> None:
    rng = random.Random(0)
    lengths = [len(at_spoken_pace([1, 2, 3, 4, 5, 6], PAUSE, rng)) for _ in range(500)]
    assert 15 < sum(lengths) / len(lengths) < 25  # six tokens are said in about two seconds, at ten embeddings each


def test_the_pause_is_one_token_of_the_bpe() -> None:
    tokenizer = train_bpe(["what is two plus three", "the answer is five"], 300)
    assert tokenizer.decode([pause_id(tokenizer)]) == " "


def test_an_embedding_is_read_as_the_token_that_it_is_nearest_to(tiny_model) -> None:
    reader = TokenReader(tiny_model)
    noise = torch.randn(reader.table.shape, generator=torch.Generator().manual_seed(1))
    near = reader.table + 0.001 * noise
    assert reader.logits(near).argmax(-1).tolist() == list(range(len(near)))
    distances = torch.cdist(near, reader.table) ** 2
    logits = reader.logits(near)
    expected = -(distances - distances[:, :1]) * 10 / (2 * reader.table.var(0).sum())
    torch.testing.assert_close(logits - logits[:, :1], expected, rtol=1e-3, atol=1e-3)


def test_what_is_said_at_the_tokens_own_embeddings_is_read_and_costs_little(tiny_model) -> None:
    reader = TokenReader(tiny_model)
    tokens = [token for token in tiny_model.tokenizer.encode("What is four?") if token != reader.pause]
    paced = at_spoken_pace(tokens, reader.pause, random.Random(0))
    said = reader.table[torch.tensor(paced)]
    other = reader.table[torch.tensor(paced).flip(0)]
    assert reader.text(said) == tiny_model.tokenizer.decode(tokens)
    ctc, distance = reader.losses([said], ["What is four?"])
    worse, _ = reader.losses([other], ["What is four?"])
    assert 0 <= ctc < worse
    assert distance < reader.losses([said * 3], ["What is four?"])[1]


def test_answers_of_a_topic_with_few_of_them_are_said_more_often() -> None:
    refusals = [{"topic": "refusal", "answer": "Sorry.", "id": i} for i in range(50)]
    capitals = [{"topic": "capitals", "answer": f"It is {i % 4}.", "id": i} for i in range(40)]
    words = [{"topic": "repeat", "answer": f"Word {i}.", "id": i} for i in range(30)]
    entries = refusals + capitals + words

    def counts(**options: int) -> tuple[Counter[str], Counter[str]]:
        picked = pick_entries(entries, 2, 1, **options)
        assert len({(e["topic"], e["id"]) for e in picked}) == len(picked)  # none twice
        return Counter(e["topic"] for e in picked), Counter(e["answer"] for e in picked)

    assert counts()[0] == {"refusal": 2, "capitals": 8, "repeat": 30}
    topics, answers = counts(per_topic=20)
    assert topics == {"refusal": 20, "capitals": 20, "repeat": 30}
    assert {answers[f"It is {i}."] for i in range(4)} == {5}
    assert counts(per_topic=1000)[0] == {"refusal": 50, "capitals": 40, "repeat": 30}  # no more than there are
    assert pick_entries(entries, 2, 1) == pick_entries(entries, 2, 1, per_topic=1)


def test_a_training_sets_the_dropout_that_it_asks_for(tiny_model, tmp_path) -> None:
    talker = Talker(replace(tiny_model.parts.talker, dropout=0.3))
    speeches = Speeches([torch.zeros(3, talker.config.llm_dim)] * 2, [torch.arange(5)] * 2)
    options = {"batch_size": 2, "bf16": False, "corrupt": 0.0, "eval_every": 0, "loop": {"steps": 1, "lr": 0.0}}
    rates = []
    for name, asked in (("own", {}), ("asked", {"dropout": 0.1})):
        fit_talker(talker, speeches, speeches, tmp_path / name, options | asked, 1)
        rates.append({module.p for module in talker.modules() if isinstance(module, torch.nn.Dropout)})
    assert rates == [{0.3}, {0.1}]


def test_a_share_of_the_tokens_is_corrupted_and_no_more() -> None:
    tokens = torch.arange(2000)
    wrong = corrupted(tokens, 0.15, 2000, torch.Generator().manual_seed(0)) != tokens
    assert 0.12 < wrong.float().mean() < 0.18
    assert torch.equal(corrupted(tokens, 0.0, 2000, torch.Generator()), tokens)


def test_the_talker_learns_the_right_tokens_from_wrong_inputs(tiny_model) -> None:
    hidden, tokens = [torch.randn(4, 32)], [torch.arange(9)]
    plain = tiny_model.talker.loss(hidden, tokens)
    same = tiny_model.talker.loss(hidden, tokens, inputs=tokens)
    other = tiny_model.talker.loss(hidden, tokens, inputs=[tokens[0].flip(0)])
    assert torch.equal(plain.total, same.total)
    assert torch.equal(plain.labels, other.labels)
    assert not torch.equal(plain.total, other.total)


def test_a_generator_makes_other_speakers_of_the_clips_and_the_same_ones_again(tiny_model) -> None:
    clip = torch.randn(16000, generator=torch.Generator().manual_seed(0)).numpy() * 0.1
    plain, again = (encode_clips(tiny_model, [clip])[0] for _ in range(2))
    first, second = encode_clips(tiny_model, [clip, clip], torch.Generator().manual_seed(1))
    repeated = encode_clips(tiny_model, [clip, clip], torch.Generator().manual_seed(1))
    assert torch.equal(plain, again)
    assert plain.shape == first.shape == second.shape
    assert not torch.allclose(plain, first, atol=1e-3)
    assert not torch.allclose(first, second, atol=1e-3)  # each clip has a speaker of its own
    torch.testing.assert_close(repeated, [first, second])
    masked = encode_clips(tiny_model, [clip, clip], torch.Generator().manual_seed(1), is_masked=True)
    assert not any(torch.allclose(one, other, atol=1e-3) for one, other in zip(masked, repeated, strict=True))


def test_the_adaptor_starts_with_every_hidden_unit_awake_near_what_the_token_head_reads(tiny_model) -> None:
    model = copy.deepcopy(tiny_model)
    reader, adaptor = TokenReader(model), model.adaptor
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(16000, generator=generator).numpy() * 0.1 for _ in range(12)]
    groups = torch.cat([group_frames(row[None], adaptor.rate)[0] for row in encode_clips(model, clips)])
    head = torch.nn.Linear(groups.shape[1], len(model.tokenizer))
    wanted = head(groups).softmax(-1) @ reader.table[: head.out_features]

    def error() -> float:
        states = groups.reshape(1, -1, groups.shape[1] // adaptor.rate)
        return (adaptor(states)[0] - wanted).square().mean().item()

    before = error()
    start_at_head(model, head, clips)
    assert error() < 0.1 * before
    assert (adaptor.linear1(groups) > 0).float().mean() > 0.9


def test_swayed_states_differ_as_the_same_answer_to_other_questions_does() -> None:
    units = [torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([1, 2])]
    groups = alike(units)
    assert groups == [[0, 2], [1], [0, 2]]
    hidden = [torch.zeros(3, 4), torch.ones(2, 4), torch.arange(12.0).view(3, 4)]
    generator = torch.Generator().manual_seed(1)
    shares = set()
    for _ in range(60):
        moved = swayed(hidden, groups, 0, 0.5, generator)
        share = (moved / hidden[2]).flatten()[1:]
        torch.testing.assert_close(share, share[:1].expand(11))  # whole rows, by one share of the difference
        shares.add(round(share[0].item(), 6))
        alone = swayed(hidden, groups, 1, 0.5, generator) - hidden[1]  # borrows the difference of the other two
        assert alone.abs().sum() == 0 or torch.equal(alone.sign().flatten()[1:], alone.sign().flatten()[1:2].expand(7))
    assert -0.5 <= min(shares) < -0.3
    assert 0.3 < max(shares) <= 0.5
    assert hidden[0].abs().sum() == 0  # it is not changed in place
