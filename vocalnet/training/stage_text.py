"""The text stage: nano's BPE tokenizer and its LLM, trained on the domain's questions and answers as text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from vocalnet.llm import Message, build_llm, prompt_pieces, user_content
from vocalnet.tokens import NANO_SPECIAL, NANO_TEMPLATE, family
from vocalnet.training.data import pad
from vocalnet.training.domain import draw
from vocalnet.training.loop import LoopConfig, Losses, batch_order, train
from vocalnet.training.questions import Question

TRANSCRIBE = "Transcribe:"  # an instruction nano knows beside answering: write down what was said
TRANSCRIBE_SHARE = 0.1
QUESTION_WEIGHT = 0.1  # of the question's own tokens in the loss
PAUSE = " "  # a token between the words of a question read at the pace of speech
SPOKEN_PACE_SHARE = 0.5  # of the questions read at that pace


def train_bpe(texts: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Returns a byte-level BPE tokenizer with nano's special tokens and chat template."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(NANO_SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=NANO_SPECIAL[0], eos_token=NANO_SPECIAL[-1])
    tokenizer.chat_template = NANO_TEMPLATE
    return tokenizer


def pause_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the token that stands for an audio embedding in which no token is spoken."""
    (token,) = tokenizer.encode(PAUSE, add_special_tokens=False)
    return token


def at_spoken_pace(tokens: Sequence[int], pause: int, rng: random.Random) -> list[int]:
    """Returns a question's tokens as the adaptor will deliver them, 10 a second: with pauses, some tokens twice.

    An LLM that reads this way needs little more than an adaptor that speaks in its own embeddings (stage_align).
    """
    paced = [pause] * rng.randint(0, 5)
    for token in tokens:
        paced += [token] * (2 if rng.random() < 0.1 else 1) + [pause] * rng.choice((0, 0, 1, 1, 2, 3))
    return paced + [pause] * rng.randint(0, 5)


@dataclass(frozen=True)
class Sequences:
    """Token ids with the number of prompt tokens of each."""

    ids: list[Tensor]
    n_prompt: list[int]


def prompt_ids(
    tokenizer: PreTrainedTokenizerBase, question: Question, content: str, pace: Callable[[list[int]], list[int]]
) -> list[int]:
    """Returns the prompt of a question, after the questions and answers that came before it.

    Args:
        tokenizer: nano's.
        question: asked, and those before it too, where a session would put their audio.
        content: of the question's own turn, with that place.
        pace: maps a question's tokens to those that enter.
    """
    turns: list[Message] = []
    for _, said in question.history:
        turns += [Message("user", user_content()), Message("assistant", said)]
    pieces = prompt_pieces(tokenizer, family("nano"), [*turns, Message("user", content)])
    prompt = pieces[0]
    for text, piece in zip([*(text for text, _ in question.history), question.text], pieces[1:], strict=True):
        prompt = [*prompt, *pace(tokenizer.encode(text, add_special_tokens=False)), *piece]
    return prompt


def encode_questions(tokenizer: PreTrainedTokenizerBase, questions: list[Question], seed: int) -> Sequences:
    """Returns prompt + answer + end of every question.

    A share of them is to be transcribed instead of answered, a share is written at the pace of speech.
    """
    rng = random.Random(seed)
    pause = pause_id(tokenizer)
    rows, sizes = [], []
    for question in questions:
        transcribe = rng.random() < TRANSCRIBE_SHARE
        content = user_content(TRANSCRIBE if transcribe else "")
        pace = partial(at_spoken_pace, pause=pause, rng=rng) if rng.random() < SPOKEN_PACE_SHARE else list
        prompt = prompt_ids(tokenizer, question, content, pace)
        answer = tokenizer.encode(question.text if transcribe else question.answer, add_special_tokens=False)
        rows.append(torch.tensor([*prompt, *answer, tokenizer.eos_token_id]))
        sizes.append(len(prompt))
    return Sequences(rows, sizes)


def weighted_loss(llm: PreTrainedModel, sequences: Sequences, index: Any) -> tuple[Tensor, Tensor]:
    """Returns the mean cross entropies of the answers' and of the questions' tokens."""
    ids, lengths = pad([sequences.ids[i] for i in index])
    position = torch.arange(ids.shape[1])
    logits = llm(input_ids=ids, attention_mask=(position < lengths[:, None]).long()).logits[:, :-1]
    n_prompt = torch.tensor([sequences.n_prompt[i] for i in index])
    losses = functional.cross_entropy(logits.float().transpose(1, 2), ids[:, 1:], reduction="none")
    is_answer = (position[1:] >= n_prompt[:, None]) & (position[1:] < lengths[:, None])
    is_question = position[1:] < n_prompt[:, None]
    return losses[is_answer].mean(), losses[is_question].mean()


def train_text(
    folder: Path,
    config: dict[str, Any],
    options: dict[str, Any],
    seed: int,
    start: tuple[PreTrainedModel, PreTrainedTokenizerBase] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Returns the LLM and its tokenizer.

    Args:
        options: "loop" (LoopConfig), "batch_size", "n_questions", "domain" (`domain.SHARES`), "bf16".
        start: an LLM with its tokenizer to go on from, in place; None: both are made anew.
    """
    domain = options["domain"]
    questions = draw("train", options["n_questions"], seed + 1, domain, is_single=False)
    llm: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    if start is None:
        tokenizer = train_bpe([t for q in questions for t in (q.text, q.answer)], config["vocab_size"])
        torch.manual_seed(seed)
        llm = build_llm({**config, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id})
    else:
        llm, tokenizer = start
    sequences = encode_questions(tokenizer, questions, seed)
    dev = encode_questions(tokenizer, draw("dev", 256, seed, domain, is_single=False), seed)
    order = batch_order(len(questions), options["batch_size"], seed, [len(x) for x in sequences.ids])

    def losses(step: int, generator: torch.Generator) -> Losses:
        with torch.autocast("cpu", torch.bfloat16, enabled=options["bf16"]):
            answer, question = weighted_loss(llm, sequences, order(step))
        return {"total": answer + QUESTION_WEIGHT * question, "answer": answer.detach(), "question": question.detach()}

    def evaluate() -> dict[str, float]:
        return {"dev_answer": weighted_loss(llm, dev, range(len(dev.ids)))[0].item()}

    train({"llm": llm}, losses, LoopConfig(**options["loop"]), folder, seed, evaluate, eval_every=500)
    return llm, tokenizer
