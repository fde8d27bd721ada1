"""vocalnet eval --set openaudiobench|nll: what the two need beside a model."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocalnet.commands.console import tell

NAMES = ("openaudiobench", "nll")
MODEL_OPTIONS = (
    "model",
    "encoder",
    "vocoder",
    "vocoder_backend",
    "base_llm",
    "decoder",
    "voice",
    "flow_steps",
    "flow_chunk",
)


@dataclass(frozen=True)
class Asked:
    """The options of `vocalnet eval` that only benchmarks have; there is their help."""

    data: Path | None = None
    n: int | None = None
    judge_url: str | None = None
    judge_model: str | None = None
    judge_key_env: str = "OPENAI_API_KEY"
    asr: str = "pocketsphinx"
    utmos: Path | None = None
    is_text_only: bool = False
    mask: str = "full"


def run(name: str, generation: Any, out: Path, asked: Asked) -> tuple[dict[str, Any], str]:
    """Runs a benchmark on the model of `generation` into `out`; returns the results and one sentence on them.

    Raises:
        ValueError: an option is missing, or its file.
    """
    if asked.data is None:
        raise ValueError(
            f"--set {name} needs --data: the folder of OpenAudioBench, or for nll a list of training pairs."
        )
    if name == "nll":
        return _nll(generation, asked.data, out, asked)
    from vocalnet.benchmarks.openaudiobench import evaluate, load_questions

    questions = load_questions(asked.data, asked.n)
    judge = make_judge(asked)
    model = generation.load()
    is_spoken = model.sample_rate_hz > 0 and not asked.is_text_only
    instruments = _instruments(asked, judge, is_spoken, str(model.device))
    options = generation.options(model) if is_spoken else None
    seed = generation.seed or 0
    settings = _settings(generation, model, asked.data)
    speech = generation.speech() if is_spoken else {}
    report = evaluate(model, questions, instruments, out, options=options, speech=speech, seed=seed, settings=settings)
    return report, f"{report['n']} answers of {', '.join(report['sets'])}; details in {out}"


def check_grid(generation: Any, grid: str) -> None:
    """Refuses a grid that does not exist, and options that its cells set themselves."""
    from vocalnet.grids import find_grid

    find_grid(grid, ())
    for name in ("decoder", "tokens_per_step", "policy", "temperature", "max_tokens"):
        if getattr(generation, name) is not None:
            raise ValueError(
                f"The cells of a grid set --{name.replace('_', '-')} themselves. Leave it out with --grid."
            )
    if generation.speech():
        raise ValueError("A grid speaks as the checkpoint says. Leave --voice, --flow-steps and --flow-chunk out.")


def make_judge(asked: Asked) -> Any:
    """Returns the judge at a URL, or exact match without one.

    Raises:
        ValueError: a URL without a model.
    """
    from vocalnet.benchmarks.judges import ChatJudge, ExactMatch

    if asked.judge_url is None:
        tell("Without --judge-url answers are judged by exact match, and those of AlpacaEval are not rated.")
        return ExactMatch()
    if asked.judge_model is None:
        raise ValueError("--judge-url needs --judge-model: the name by which that server knows the judge.")
    return ChatJudge(asked.judge_url, asked.judge_model, os.environ.get(asked.judge_key_env))


def _instruments(asked: Asked, judge: Any, is_spoken: bool, device: str) -> Any:
    """Returns judge, recogniser and scores, each loaded now, so that a missing file is told before the first answer."""
    from vocalnet.benchmarks.openaudiobench import Instruments

    if not is_spoken:
        return Instruments(judge, names={"asr": None})
    from vocalnet.metrics.asr import PocketSphinx, Recogniser
    from vocalnet.metrics.mos import Dnsmos
    from vocalnet.metrics.utmos import Utmos
    from vocalnet.metrics.whisper import Whisper

    recogniser: Recogniser = PocketSphinx() if asked.asr == "pocketsphinx" else Whisper(asked.asr, device)
    dnsmos = Dnsmos()
    scores: dict[str, Any] = {"dnsmos_p808": lambda samples, rate_hz: dnsmos(samples, rate_hz).p808}
    if asked.utmos is not None:
        scores["utmos"] = Utmos(asked.utmos)
    names = {"asr": asked.asr, "utmos_weights": None if asked.utmos is None else asked.utmos.name}
    return Instruments(judge, recogniser, scores, getattr(recogniser, "spelling", None), names)


def _settings(generation: Any, model: Any, data: Path) -> dict[str, Any]:
    """Returns what a resumed run must share, and a reader of the results wants to know: model, precision and data."""
    given = {name: getattr(generation, name) for name in MODEL_OPTIONS}
    precision = {"dtype": str(model.dtype).removeprefix("torch."), "kernel": model.kernel}
    return {"data": str(data), **{key: value for key, value in given.items() if value is not None}, **precision}


def _nll(generation: Any, data: Path, out: Path, asked: Asked) -> tuple[dict[str, Any], str]:
    from vocalnet.benchmarks.nll import benchmark

    model, seed = generation.load(), generation.seed or 0
    settings = _settings(generation, model, data)
    report = benchmark(model, data, out, mask=asked.mask, n=asked.n, seed=seed, settings=settings)
    heads = ", ".join(f"{head['nll']:.3f}" for head in report["heads"]) or "none"
    return report, f"text {report['text']['nll']:.3f} nats per token; speech by head: {heads}; details in {out}"
