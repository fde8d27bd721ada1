"""The protocol of `vocalnet bench`: how fast the parts are, at nano's and at the published sizes.

Speed does not depend on what the weights are, so the published sizes run with random ones. Every cell is warmed up
once; then the cells take turns, so that a machine that slows down slows all of them; medians are reported.

Letters: L_t text positions, P prompt tokens, T speech tokens.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vocalnet.audio import SAMPLE_RATE_HZ
from vocalnet.config import AdaptorConfig, EncoderConfig, FlowConfig, HiftConfig, TalkerConfig, VocalNetConfig
from vocalnet.decoder.kernels import use_kernel
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.talker import Talker
from vocalnet.events import AudioChunk
from vocalnet.model import VocalNet
from vocalnet.provenance import peak_memory_mb, provenance
from vocalnet.vocoder.token2wav import Token2Wav

TEXT_ROWS = 40  # L_t of a benched answer, about thirty words
PROMPT_TOKENS = 115  # P, a voice of 4.6 s
VOCODED_TOKENS = 100  # T
QUESTION_S = 3.0

_LLAMA = {"model_type": "llama", "num_key_value_heads": 8, "vocab_size": 128256, "rope_theta": 500000.0}
_1B = {**_LLAMA, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
_8B = {**_LLAMA, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
_QWEN = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rope_theta": 1000000.0,
}


def _released(llm: dict[str, Any], is_tied: bool, ffn_dim: int) -> VocalNetConfig:
    dim = llm["hidden_size"]
    return VocalNetConfig(
        family="generic",
        encoder=EncoderConfig(),
        adaptor=AdaptorConfig(),
        llm={**llm, "tie_word_embeddings": is_tied},
        talker=TalkerConfig(llm_dim=dim, dim=dim, ffn_dim=ffn_dim),
        flow=FlowConfig(),
        hift=HiftConfig(),
    )


# Shapes of the published checkpoints; the 8B talker's feed-forward width is assumed, as its config is not published.
PRESETS: dict[str, VocalNetConfig] = {
    "vocalnet-1b": _released(_1B, True, 8192),
    "vocalnet-8b": _released(_8B, False, 16384),
    "vocalnet-qwen25-7b": _released(_QWEN, False, 14336),
}
WHAT = ("talker", "token2wav", "first-audio")


@dataclass(frozen=True)
class BenchOptions:
    """How a bench runs; `kernel` as in `decoder.kernels`, `n_tokens` of each talker run."""

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    kernel: str = "packed"
    heads: tuple[str, ...] = ("mtp_vocalnet",)
    tokens_per_step: tuple[int, ...] = (1, 3, 5)
    n_tokens: int = 150
    repeats: int = 5
    seed: int = 0


def bench(config: VocalNetConfig, what: str, options: BenchOptions, tokenizer: Any = None) -> dict[str, Any]:
    """Returns {"what", "dtype", "threads", "cells", ...} with provenance; see API.md, `vocalnet bench`.

    Args:
        config: sizes; the weights are random.
        what: "talker", "token2wav" or "first-audio".
        options: how.
        tokenizer: writes the prompt of "first-audio".

    Raises:
        ValueError: `what` is unknown, or the config has no such part.
    """
    if what not in WHAT:
        raise ValueError(f"cannot bench {what!r}; available: {', '.join(WHAT)}")
    if config.talker is None or config.flow is None or config.hift is None:
        raise ValueError("this checkpoint writes text only: there is no speech to time")
    torch.manual_seed(options.seed)
    if what == "talker":
        cells = bench_talker(config.talker, options)
    elif what == "token2wav":
        cells = bench_token2wav(Token2Wav(config.flow, config.hift), options)
    else:
        cells = bench_first_audio(config, tokenizer, options)
    return {
        "what": what,
        "dtype": str(options.dtype).removeprefix("torch."),
        "kernel": options.kernel,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "random_weights": True,
        "cells": cells,
        "peak_memory_mb": peak_memory_mb(),
        **provenance(options.seed),
    }


def take_turns(
    runs: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Returns the seconds of each run, `repeats` times in turn after one warm-up each."""
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            began = clock()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds[name].append(clock() - began)
    return seconds


@torch.inference_mode()
def bench_talker(config: TalkerConfig, options: BenchOptions) -> list[dict[str, Any]]:
    """Returns a cell per head and tokens per step: prefill and `n_tokens` greedy tokens of one text."""
    cells: list[dict[str, Any]] = []
    for head in options.heads:
        talker = Talker(replace(config, head=head)).to(options.device, options.dtype).eval().requires_grad_(False)
        use_kernel(talker, options.kernel)
        text = torch.randn(1, TEXT_ROWS, config.llm_dim).to(options.device, options.dtype)
        runs: dict[str, Callable[[], Any]] = {}
        rows: dict[str, dict[str, Any]] = {}
        for K in options.tokens_per_step:
            if talker.head.n_heads < K:
                continue
            decode = DecodeOptions(tokens_per_step=K, min_tokens=options.n_tokens, max_tokens=options.n_tokens)
            name = f"{head} {K}"
            runs[name] = _generation(talker, text, decode)
            rows[name] = {"head": head, "tokens_per_step": K, "n_tokens": options.n_tokens}
        for name, seconds in take_turns(runs, options.repeats).items():
            median = statistics.median(seconds)
            cells.append(
                {**rows[name], "seconds": seconds, "median_s": median, "tokens_per_s": options.n_tokens / median}
            )
    best = max((cell["tokens_per_s"] for cell in cells if cell["tokens_per_step"] == 1), default=None)
    if best is not None:
        for cell in cells:
            cell["speedup_over_best_1x"] = cell["tokens_per_s"] / best
    return cells


def _generation(talker: Talker, text: Tensor, options: DecodeOptions) -> Callable[[], Tensor]:
    def run() -> Tensor:
        tokens = talker.generate(text, options)
        assert isinstance(tokens, Tensor)
        assert len(tokens) == options.max_tokens
        return tokens

    return run


@torch.inference_mode()
def bench_token2wav(token2wav: Token2Wav, options: BenchOptions) -> list[dict[str, Any]]:
    """Returns, without and with a voice prompt, the exact stream beside re-running everything at the same points."""
    token2wav = token2wav.to(options.device).eval().requires_grad_(False)
    token2wav.hift.fuse_weight_norm()
    config = token2wav.flow_config
    chunk = config.chunk_size
    tokens = torch.randint(config.vocab_size, (VOCODED_TOKENS,))
    cells = []
    for P in (0, PROMPT_TOKENS):
        prompt = _prompt(token2wav, P)
        voice: dict[str, Any] = dict(zip(("prompt_tokens", "prompt_mel", "embedding"), prompt or (), strict=False))
        pieces = list(tokens.split(chunk))

        def stream(pieces: Sequence[Tensor] = pieces, prompt: Any = prompt) -> list[Tensor]:
            return [mel for mel, _ in token2wav.stream(pieces, prompt, style="exact")]

        def again(voice: dict[str, Any] = voice) -> None:
            for end in range(chunk, VOCODED_TOKENS + 1, chunk):
                is_last = end == VOCODED_TOKENS
                mel = token2wav.flow(tokens[:end], **voice, finalize=is_last, chunk=chunk)
                token2wav.vocode(mel)

        whole = token2wav.flow(tokens, **voice, chunk=chunk)
        difference = (torch.cat(stream(), -1) - whole).abs().max().item()
        seconds = take_turns({"exact": stream, "again": again}, options.repeats)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        cells.append(
            {
                "prompt_tokens": P,
                "n_tokens": VOCODED_TOKENS,
                "exact_s": seconds["exact"],
                "again_s": seconds["again"],
                "share": medians["exact"] / medians["again"],
                "tokens_per_s": VOCODED_TOKENS / medians["exact"],
                "mel_difference": difference,
            }
        )
    return cells


def _prompt(token2wav: Token2Wav, P: int) -> tuple[Tensor, Tensor, Tensor] | None:
    config = token2wav.flow_config
    if P == 0:
        return None
    mel = torch.randn(1, config.token_mel_ratio * P, config.n_mels)
    return torch.randint(config.vocab_size, (1, P)), mel, torch.randn(1, config.spk_embed_dim)


@torch.inference_mode()
def bench_first_audio(config: VocalNetConfig, tokenizer: Any, options: BenchOptions) -> list[dict[str, Any]]:
    """Returns the time from the question's end to the first sound, and the stages' share of it, of every run."""
    if tokenizer is None:
        raise ValueError("first-audio needs a tokenizer for its prompt: pass one, such as nano's")
    default = torch.get_default_dtype()
    torch.set_default_dtype(options.dtype)  # the weights are drawn in it: twice the memory is not there
    try:
        model = VocalNet(config, tokenizer).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(default)
    nn.Module.to(model, device=torch.device(options.device))
    assert model.vocoder is not None
    model.vocoder.float().hift.fuse_weight_norm()
    assert model.talker is not None
    use_kernel(model.talker, options.kernel)
    rng = np.random.default_rng(options.seed)
    question = (0.1 * rng.standard_normal(round(QUESTION_S * SAMPLE_RATE_HZ))).astype(np.float32)
    cells = []
    for K in options.tokens_per_step:
        decode = DecodeOptions(
            tokens_per_step=K, mask="streaming", min_tokens=options.n_tokens, max_tokens=options.n_tokens
        )
        firsts = [_first_audio_s(model, question, decode) for _ in range(1 + options.repeats)][1:]
        cells.append({"tokens_per_step": K, "seconds": firsts, "median_s": statistics.median(firsts)})
    return cells


def _first_audio_s(model: VocalNet, question: np.ndarray, options: DecodeOptions) -> float:
    events = model.stream(audio=(question, SAMPLE_RATE_HZ), options=options)
    began = time.perf_counter()
    for event in events:
        if isinstance(event, AudioChunk):
            return time.perf_counter() - began
    raise ValueError("the answer ended before any sound: random weights wrote no text; try another --seed")
