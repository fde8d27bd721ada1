"""Speech tokens as sound, whole or streamed under given options, and what a stream costs: for grids of the vocoder."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from vocalnet.metrics.latency import real_time_factor
from vocalnet.metrics.seams import Seams, find_seams, seam_places
from vocalnet.vocoder.options import VocoderOptions
from vocalnet.vocoder.token2wav import Token2Wav
from vocalnet.vocoder.wave_stream import OVERLAP_FRAMES

PUSH = 15  # tokens that a talker hands over at a time: C_s
N_SEAMED = 50  # answers whose seams are sought


@torch.inference_mode()
def whole_wave(vocoder: Any, tokens: list[int], **flow: Any) -> np.ndarray:
    """Returns the samples (n,) of speech tokens made in one piece, none for none; `flow` as for `Token2Wav.flow`."""
    if not tokens:
        return np.zeros(0, np.float32)
    samples: np.ndarray = vocoder.vocode(vocoder.flow(tokens, **flow))[0][0].float().cpu().numpy()
    return samples


@torch.inference_mode()
def streamed_pieces(vocoder: Token2Wav, tokens: list[int], sound: VocoderOptions) -> list[tuple[float, np.ndarray]]:
    """Returns the pieces of a stream, and when each was there: seconds of work since its first token."""
    stream, pieces, began = vocoder.token_stream(**sound.of_stream()), [], time.perf_counter()
    for start in range(0, len(tokens), PUSH):
        for _, wave in stream.push(tokens[start : start + PUSH], last=start + PUSH >= len(tokens)):
            pieces.append((time.perf_counter() - began, wave[0].float().cpu().numpy()))
    return [(at, piece) for at, piece in pieces if len(piece)]


def streamed_wave(vocoder: Token2Wav, tokens: list[int], sound: VocoderOptions) -> np.ndarray:
    """Returns all samples (n,) of a stream."""
    return np.concatenate([np.zeros(0, np.float32), *(piece for _, piece in streamed_pieces(vocoder, tokens, sound))])


def cost(vocoder: Token2Wav, speeches: Sequence[list[int]], sound: VocoderOptions) -> dict[str, Any]:
    """Returns what a stream's first sound and all of its sound take, and its seams, over spoken answers.

    Raises:
        ValueError: there is nothing to speak.
    """
    said = [tokens for tokens in speeches[:N_SEAMED] if tokens]
    if not said:
        raise ValueError("There is no speech to stream.")
    config, rate_hz = vocoder.flow_config, vocoder.sample_rate_hz
    chunk = sound.chunk or config.chunk_size
    overlap = OVERLAP_FRAMES * vocoder.hift_config.samples_per_frame
    streamed_pieces(vocoder, said[0], sound)  # warm
    firsts, busy_s, audio_s, seams = [], [], [], Seams()
    for tokens in said:
        pieces = streamed_pieces(vocoder, tokens, sound)
        wave = np.concatenate([piece for _, piece in pieces])
        firsts.append(pieces[0][0])
        busy_s.append(pieces[-1][0])
        audio_s.append(len(wave) / rate_hz)
        whole = whole_wave(vocoder, tokens, chunk=chunk, **sound.of_flow())
        places = seam_places([len(piece) for _, piece in pieces], overlap)
        seams += find_seams(wave, whole, places, rate_hz) if len(whole) == len(wave) else Seams()
    return {
        "n_steps": sound.n_steps or config.n_steps,
        "cfg_rate": config.cfg_rate if sound.cfg_rate is None else sound.cfg_rate,
        "chunk": chunk,
        "first_sound_s": statistics.median(firsts),
        "real_time_factor": real_time_factor(busy_s, audio_s),
        "seams": {**asdict(seams), "excess": seams.excess},
    }
