"""The protocol of `vocalnet bench`: how fast the parts are, at nano's and at the published sizes.

Speed does not depend on what the weights are, so the published sizes run with random ones. Every cell is warmed up
once; then the cells take turns, so that a machine that slows down slows all of them; medians are reported.

Letters: L_t text positions, P prompt tokens, T speech tokens.
"""

from __future__ import annotations

import functools
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
from vocalnet.decoder.backbone import initialise
from vocalnet.decoder.heads import HEADS
from vocalnet.decoder.kernels import check_kernel, use_kernel
from vocalnet.decoder.options import DecodeOptions
from vocalnet.decoder.stream import Stream
from vocalnet.decoder.talker import Talker
from vocalnet.events import SpeechTokens, Timings
from vocalnet.metrics.speedup import bound_by_layers, bound_by_weights
from vocalnet.model import VocalNet
from vocalnet.provenance import peak_memory_mb, provenance
from vocalnet.published import published_table
from vocalnet.vocoder.conformer import LOOKAHEAD
from vocalnet.vocoder.options import VocoderOptions
from vocalnet.vocoder.prompt import VoicePrompt
from vocalnet.vocoder.token2wav import Token2Wav
from vocalnet.vocoder.voices import Voices

TEXT_ROWS = 40  # L_t of a benched answer, about thirty words
PROMPT_TOKENS = 115  # P, a voice of 4.6 s
VOCODED_TOKENS = 100  # T
QUESTION_S = 3.0
PUBLISHED_STEP = 3  # tokens per step of the paper's Table 5
LONG_TOKENS, END_TOKENS = 2000, 100  # a long answer, and how much of each end is compared

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
WHAT = ("talker", "token2wav", "first-audio", "waterfall")
STAGES = ("encoder", "llm", "talker", "vocoder")


@dataclass(frozen=True)
class BenchOptions:
    """How a bench runs.

    Attributes:
        kernel: as in `decoder.kernels`.
        heads: of the talkers, all on one backbone.
        n_tokens: of each talker run.
        is_long: talkers also say a long answer, to see whether its end is slower than its beginning.
    """

    dtype: torch.dtype = torch.float32
    device: str = "cpu"
    kernel: str = "packed"
    heads: tuple[str, ...] = ("ntp", "mtp_vocalnet")
    tokens_per_step: tuple[int, ...] = (1, 3, 5)
    n_tokens: int = 150
    repeats: int = 5
    seed: int = 0
    is_long: bool = False

    @property
    def dtype_name(self) -> str:
        """What the weights are read in: int8 is a kernel's, and starts from float32."""
        return "int8" if self.kernel == "int8" else str(self.dtype).removeprefix("torch.")


def bench(config: VocalNetConfig, what: str, options: BenchOptions, tokenizer: Any = None) -> dict[str, Any]:
    """Returns {"what", "dtype", "threads", "cells", ...} with provenance; see API.md, `vocalnet bench`.

    Args:
        config: sizes; the weights are random.
        what: one of `WHAT`.
        options: how.
        tokenizer: writes the prompt of "first-audio" and "waterfall".

    Raises:
        ValueError: `what` or the kernel is unknown, or the config has no such part.
    """
    check_kernel(options.kernel, torch.device(options.device), options.dtype)
    if what not in WHAT:
        raise ValueError(f"cannot bench {what!r}; available: {', '.join(WHAT)}")
    if config.talker is None or config.flow is None or config.hift is None:
        raise ValueError("this checkpoint writes text only: there is no speech to time")
    if what == "token2wav" and options.dtype_name != "float32":
        raise ValueError("the vocoder computes in float32: leave --dtype and an int8 --kernel out for token2wav")
    torch.manual_seed(options.seed)
    if what == "talker":
        cells = bench_talker(config.talker, options)
    elif what == "token2wav":
        cells = bench_token2wav(Token2Wav(config.flow, config.hift), options)
    elif what == "waterfall":
        cells = bench_waterfall(config, tokenizer, options)
    else:
        cells = bench_first_audio(config, tokenizer, options)
    return {
        "what": what,
        "dtype": options.dtype_name,
        "kernel": options.kernel,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "random_weights": True,
        "cells": cells,
        **({"published_ms": [row.cells for row in published_table(5).rows]} if what == "waterfall" else {}),
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
    """Returns a cell per head and tokens per step: one text and `n_tokens` greedy tokens of it.

    Raises:
        ValueError: a head is unknown, or none of them can say so many tokens per step.
    """
    talkers = _talkers(config, options)
    text = torch.randn(1, TEXT_ROWS, config.llm_dim).to(options.device, options.dtype)
    pairs = [(name, K) for name in talkers for K in options.tokens_per_step]
    fitting = [(name, K) for name, K in pairs if talkers[name].head.stride <= K <= talkers[name].head.n_heads]
    if not fitting:
        raise ValueError(f"None of {', '.join(talkers)} takes {options.tokens_per_step} tokens per step.")

    def run(name: str, K: int) -> Callable[[], Any]:
        return _generation(talkers[name], text, _exactly(options.n_tokens, K))

    times = take_turns({f"{name} {K}": run(name, K) for name, K in fitting}, options.repeats)
    cells: list[dict[str, Any]] = []
    for (name, K), seconds in zip(fitting, times.values(), strict=True):
        median, own = statistics.median(seconds), talkers[name].config
        cells.append(
            {
                "head": name,
                "tokens_per_step": K,
                "n_tokens": options.n_tokens,
                "seconds": seconds,
                "median_s": median,
                "tokens_per_s": options.n_tokens / median,
                "bound_by_layers": bound_by_layers(own, K),
                "bound_by_weights": bound_by_weights(own, K),
                **(_ends(talkers[name], text, _exactly(LONG_TOKENS, K), options.repeats) if options.is_long else {}),
            }
        )
    best = max((cell["tokens_per_s"] for cell in cells if cell["tokens_per_step"] == 1), default=None)
    if best is not None:
        for cell in cells:
            cell["speedup_over_best_1x"] = cell["tokens_per_s"] / best
    return cells


def _talkers(config: TalkerConfig, options: BenchOptions) -> dict[str, Talker]:
    """Returns a talker per head; they share one backbone, so that all of them fit into memory and take turns."""
    talkers: dict[str, Talker] = {}
    for name in options.heads:
        own = replace(config, head=name)
        if not talkers:
            talker = Talker(own).half()  # as checkpoints hold weights: what a kernel makes of them depends on it
        else:
            first = next(iter(talkers.values()))
            with torch.device("meta"):
                talker = Talker(own)
            talker.embedding, talker.projector, talker.decoder = first.embedding, first.projector, first.decoder
            head = HEADS[name](own)
            assert isinstance(head, nn.Module)
            initialise(head, own.n_layers)
            talker.head = head.half()
        talkers[name] = talker.to(options.device, options.dtype).eval().requires_grad_(False)
        use_kernel(talker, options.kernel)
    return talkers


def _exactly(n_tokens: int, K: int) -> DecodeOptions:
    return DecodeOptions(tokens_per_step=K, min_tokens=n_tokens, max_tokens=n_tokens)


def _ends(talker: Talker, text: Tensor, options: DecodeOptions, repeats: int) -> dict[str, float]:
    """Returns how long the first and the last tokens of a long answer took, medians of repeats, and their ratio."""
    n_steps = -(-END_TOKENS // options.tokens_per_step)
    ends: list[tuple[float, float]] = []
    for _ in range(repeats):
        stream = Stream(talker, options)
        stream.add_text(text)
        stream.run_text()
        times = [time.perf_counter()]  # after each step
        while stream.n_tokens < LONG_TOKENS:
            stream.step().said()
            times.append(time.perf_counter())
        ends.append((times[n_steps] - times[0], times[-1] - times[-1 - n_steps]))
    first, last = (statistics.median(seconds) for seconds in zip(*ends, strict=True))
    return {f"first_{END_TOKENS}_s": first, f"last_{END_TOKENS}_s": last, "slowdown": last / first}


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
    token2wav.use_kernel(options.kernel)
    config = token2wav.flow_config
    chunk = config.chunk_size
    tokens = torch.randint(config.vocab_size, (VOCODED_TOKENS,))
    cells = []
    for P in (0, PROMPT_TOKENS):
        prompt = _prompt(token2wav, P)
        voice: dict[str, Any] = dict(zip(("prompt_tokens", "prompt_mel", "embedding"), prompt or (), strict=False))
        ends = _emission_points(chunk, P)
        pieces = list(tokens.tensor_split(ends[:-1]))

        def stream(pieces: Sequence[Tensor] = pieces, prompt: Any = prompt) -> list[Tensor]:
            return [mel for mel, _ in token2wav.stream(pieces, prompt, style="exact")]

        def again(voice: dict[str, Any] = voice, ends: Sequence[int] = ends) -> None:
            for end in ends:
                mel = token2wav.flow(tokens[:end], **voice, finalize=end == VOCODED_TOKENS, chunk=chunk)
                token2wav.vocode(mel)

        whole = token2wav.flow(tokens, **voice, chunk=chunk)
        difference = (torch.cat(stream(), -1) - whole).abs().max().item()
        seconds = take_turns({"exact": stream, "again": again}, options.repeats)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        cells.append(
            {
                "prompt_tokens": P,
                "n_tokens": VOCODED_TOKENS,
                "emission_points": ends,
                "exact_s": seconds["exact"],
                "again_s": seconds["again"],
                "share": medians["exact"] / medians["again"],
                "tokens_per_s": VOCODED_TOKENS / medians["exact"],
                "mel_difference": difference,
            }
        )
    return cells


def _emission_points(chunk: int, n_prompt: int) -> list[int]:
    """Returns after how many tokens a stream that holds `n_prompt` more can say something new; the last is the end."""
    chunks_end = range(chunk - n_prompt % chunk, VOCODED_TOKENS, chunk)
    return [end + LOOKAHEAD for end in chunks_end if end + LOOKAHEAD < VOCODED_TOKENS] + [VOCODED_TOKENS]


def _prompt(token2wav: Token2Wav, P: int) -> tuple[Tensor, Tensor, Tensor] | None:
    config = token2wav.flow_config
    if P == 0:
        return None
    mel = torch.randn(1, config.token_mel_ratio * P, config.n_mels)
    return torch.randint(config.vocab_size, (1, P)), mel, torch.randn(1, config.spk_embed_dim)


@torch.inference_mode()
def bench_first_audio(config: VocalNetConfig, tokenizer: Any, options: BenchOptions) -> list[dict[str, Any]]:
    """Returns the time from the question's end to the first sound, of every run, and the stages' medians of it."""
    model = _whole_model(config, tokenizer, options)
    cells = []
    for K in options.tokens_per_step:
        runs = _first_audios(model, options, K)
        speed = statistics.median(n / run.stages["talker"] for run, n in runs)
        cells.append({"tokens_per_step": K, "n_tokens": runs[0][1], "tokens_per_s": speed, **_stages(runs)})
    return cells


@torch.inference_mode()
def bench_waterfall(config: VocalNetConfig, tokenizer: Any, options: BenchOptions) -> list[dict[str, Any]]:
    """Returns the stages up to the first sound of C_t text and C_s speech tokens, as in the paper's Table 5.

    The exact stream takes chunks that C_s tokens complete; "vocalnet" computes as published. A published answer has a
    voice prompt.
    """
    model = _whole_model(config, tokenizer, options)
    vocoder, talker = model.vocoder, config.talker
    assert isinstance(vocoder, Token2Wav)
    assert talker is not None
    cells = []
    for P in (0, PROMPT_TOKENS):
        prompt = vocoder.voice(*(_prompt(vocoder, P) or ()))
        vocoder.voices = _OneVoice(prompt)
        for style in ("exact", "vocalnet"):
            sound = VocoderOptions(chunk=talker.speech_chunk - LOOKAHEAD, style=style)
            runs = _first_audios(model, options, PUBLISHED_STEP, sound=sound, voice="random")
            how = {"style": style, "prompt_tokens": P, "tokens_per_step": PUBLISHED_STEP}
            chunks = {"text_tokens": talker.text_chunk, "speech_tokens": talker.speech_chunk}
            cells.append({**how, **chunks, **_stages(runs)})
    return cells


class _OneVoice(Voices):
    """Stands in a vocoder for its voices: every name is the same prompt."""

    def __init__(self, prompt: VoicePrompt) -> None:
        super().__init__()
        self.prompt = functools.lru_cache(lambda voice: prompt)


def _whole_model(config: VocalNetConfig, tokenizer: Any, options: BenchOptions) -> VocalNet:
    """Returns a model with random weights, ready to answer.

    Raises:
        ValueError: there is no tokenizer.
    """
    if tokenizer is None:
        raise ValueError("a whole answer needs a tokenizer for its prompt: pass one, such as nano's")
    default = torch.get_default_dtype()
    torch.set_default_dtype(options.dtype)  # the weights are drawn in it: twice the memory is not there
    try:
        model = VocalNet(config, tokenizer).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(default)
    nn.Module.to(model, device=torch.device(options.device))
    assert model.vocoder is not None
    model.vocoder.float().hift.fuse_weight_norm()
    model.use_kernel(options.kernel)
    return model


def _first_audios(model: VocalNet, options: BenchOptions, K: int, **speech: Any) -> list[tuple[Timings, int]]:
    """Returns the timings at the first sound of every run after a warm-up, and the speech tokens up to there.

    `speech` as for `Session.stream`.
    """
    rng = np.random.default_rng(options.seed)
    question = (0.1 * rng.standard_normal(round(QUESTION_S * SAMPLE_RATE_HZ))).astype(np.float32)
    decode = replace(_exactly(options.n_tokens, K), mask="streaming")
    return [_first_audio(model, question, decode, speech) for _ in range(1 + options.repeats)][1:]


def _stages(runs: Sequence[tuple[Timings, int]]) -> dict[str, Any]:
    """Returns the times to the first sound, and the medians of what each stage takes of them."""
    firsts = [run.stages["first_audio"] for run, _ in runs]
    medians = {f"{name}_s": statistics.median(run.stages[name] for run, _ in runs) for name in STAGES}
    return {"seconds": firsts, "median_s": statistics.median(firsts), **medians}


def _first_audio(
    model: VocalNet, question: np.ndarray, options: DecodeOptions, speech: dict[str, Any]
) -> tuple[Timings, int]:
    """Returns the timings at the first sound of an answer, which then is cut off, and its speech tokens so far."""
    n_tokens = 0
    for event in model.stream(audio=(question, SAMPLE_RATE_HZ), options=options, **speech):
        n_tokens += len(event.tokens) if isinstance(event, SpeechTokens) else 0
        if isinstance(event, Timings) and "first_audio" in event.stages:
            return event, n_tokens
    raise ValueError("the answer ended before any sound: random weights wrote no text; try another --seed")
