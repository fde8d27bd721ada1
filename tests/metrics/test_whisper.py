"""Whisper as a judge, with a tiny random one: what is proved is the way through, not the words."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

from vocalnet.metrics.wer import normalise
from vocalnet.metrics.whisper import Whisper

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>")
TIMES = tuple(f"<|{0.02 * i:.2f}|>" for i in range(1501))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Whisper of a few thousand weights in transformers' layout."""
    folder = tmp_path_factory.mktemp("whisper")
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: n for n, token in enumerate((*letters, *SPECIAL, *TIMES))}
    tokenizer = WhisperTokenizer(vocab=vocabulary, merges=[], unk_token=SPECIAL[0], language="en", task="transcribe")
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    special = {token: vocabulary[token] for token in SPECIAL}
    ids = {f"{name}_token_id": special["<|endoftext|>"] for name in ("bos", "eos", "pad")}
    sizes = {f"{part}_{name}": n for part in ("encoder", "decoder") for name, n in (("layers", 1), ("ffn_dim", 16))}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16, "max_target_positions": 24}
    config = WhisperConfig(
        vocab_size=len(vocabulary), decoder_start_token_id=special[SPECIAL[1]], **ids, **sizes, **heads
    )
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=special[SPECIAL[1]],
        lang_to_id={"<|en|>": special["<|en|>"]},
        task_to_id={"transcribe": special["<|transcribe|>"]},
        no_timestamps_token_id=special["<|notimestamps|>"],
        is_multilingual=True,
        max_length=24,
        **ids,
    )
    model.save_pretrained(folder)
    (folder / "normalizer.json").write_text(json.dumps({"colour": "color"}))
    return folder


@pytest.mark.parametrize("seconds", [1.0, 31.0])
def test_it_writes_down_clips_of_any_length(folder, seconds):
    judge = Whisper(folder)
    samples = 0.1 * np.random.default_rng(0).standard_normal(round(22_050 * seconds)).astype(np.float32)
    said = judge.transcribe(samples, 22_050)
    assert isinstance(said, str)
    assert "<|" not in said
    assert judge.transcribe(0 * samples, 22_050) == ""


def test_its_spelling_table_is_the_normalisers(folder):
    assert normalise("The colour.", Whisper(folder).spelling) == "the color"
    assert normalise("The colour.") == "the colour"


def test_a_missing_one_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"whisper-large-v3"):
        Whisper(tmp_path / "none")
