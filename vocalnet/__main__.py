"""The command line, `vocalnet` or `python -m vocalnet`.

Answers go to stdout, everything else to stderr; with --json the last line of stdout is one JSON object. Bad input ends
with exit code 2 and one sentence. Heavy imports happen inside the commands, so that --help is quick.
"""

from __future__ import annotations

import functools
import inspect
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vocalnet.commands import benchmarks, hub, training
from vocalnet.commands import data as data_tools
from vocalnet.commands import stream as stream_command
from vocalnet.commands.console import AsJson, Model, OneSentence, Out, show, tell

if TYPE_CHECKING:
    from vocalnet.decoder.options import DecodeOptions
    from vocalnet.events import Result
    from vocalnet.vocoder.options import VocoderOptions

Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps; the best available by default.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16, float16; float32 on a CPU by default.")]
Audio = Annotated[Path, typer.Option(help="The spoken question: wav, flac, mp3 or ogg, up to 300 s.")]


app = typer.Typer(
    cls=OneSentence,
    help="A speech LLM that hears a question and answers in text and speech.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
app.add_typer(data_tools.app, name="data")
app.command()(hub.push)
app.command()(hub.space)
app.command()(training.plan)
app.command("bench-training")(training.bench_training)


@dataclass(frozen=True)
class Generation:
    """The options of every generating command."""

    model: Model = "nano"
    encoder: Annotated[str | None, typer.Option(help="Whisper of a published checkpoint, if it is not inside.")] = None
    vocoder: Annotated[str | None, typer.Option(help="CosyVoice 2 folder with flow and hift.")] = None
    vocoder_backend: Annotated[str, typer.Option(help="native, or official: a CosyVoice checkout.")] = "native"
    base_llm: Annotated[str | None, typer.Option(help="LLM of a published LoRA folder.")] = None
    decoder: Annotated[str | None, typer.Option(help="Speech decoder head; the checkpoint's own by default.")] = None
    tokens_per_step: Annotated[int | None, typer.Option(help="Speech tokens proposed per step.")] = None
    policy: Annotated[str | None, typer.Option(help="How many of the proposed tokens are kept.")] = None
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of the draws; a fresh one by default.")] = None
    max_tokens: Annotated[int | None, typer.Option(help="At most this many speech tokens.")] = None
    voice: Annotated[str | None, typer.Option(help="A voice of the vocoder's folder, or a recording of one.")] = None
    flow_steps: Annotated[int | None, typer.Option(help="Euler steps of the vocoder's flow (NFE).")] = None
    flow_chunk: Annotated[int | None, typer.Option(help="Speech tokens per piece of a stream's flow.")] = None
    device: Device = None
    dtype: Dtype = None
    kernel: Annotated[str | None, typer.Option(help="plain, packed, int8 (approximate), graphed (GPU).")] = None

    def check_options(self, **more: Any) -> None:
        """Raises ValueError for decoding options that no model takes, before one is loaded."""
        from vocalnet.decoder.options import DecodeOptions

        DecodeOptions(**self._given(), **more)

    def options(self, model: Any, mask: str = "full", **more: Any) -> DecodeOptions | None:
        """Returns the decoding options: the talker's own for that mask, but for what was given; None: no talker."""
        if model.talker is None:
            return None
        return replace(model.talker.default_options(mask), **{**self._given(), **more})

    def _given(self) -> dict[str, Any]:
        names = ("tokens_per_step", "policy", "temperature", "seed", "max_tokens")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def sound(self) -> VocoderOptions | None:
        """Returns the vocoder's options; None: the checkpoint's."""
        from vocalnet.vocoder.options import VocoderOptions

        if self.flow_steps is None and self.flow_chunk is None:
            return None
        return VocoderOptions(n_steps=self.flow_steps, chunk=self.flow_chunk)

    def speech(self) -> dict[str, Any]:
        """Returns how an answer sounds, as arguments of `Session.stream`; what was not given is left out."""
        named = {"voice": self.voice, "sound": self.sound()}
        return {name: value for name, value in named.items() if value is not None}

    def load(self) -> Any:
        """Returns the loaded model."""
        import vocalnet

        names = ("encoder", "vocoder", "vocoder_backend", "decoder", "device", "dtype", "base_llm", "kernel")
        return vocalnet.load(self.model, **{name: getattr(self, name) for name in names})


def generating(command: Callable[..., None]) -> Callable[..., None]:
    """Adds the options of Generation to a command, whose first argument they become."""
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = list(inspect.signature(Generation, eval_str=True).parameters.values())

    @functools.wraps(command)
    def wrapper(**arguments: Any) -> None:
        generation = Generation(**{field.name: arguments.pop(field.name) for field in fields(Generation)})
        command(generation, **arguments)

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return wrapper


@app.command()
@generating
def s2t(generation: Generation, audio: Audio, as_json: AsJson = False) -> None:
    """Answers a spoken question in text."""
    _check_question(audio)
    generation.check_options()
    model = generation.load()
    result = model.respond(audio=audio, speech=False, options=generation.options(model))
    show({"text": result.text, "timings": result.timings, "warnings": result.warnings}, as_json)


@app.command()
@generating
def s2s(generation: Generation, audio: Audio, out: Out, as_json: AsJson = False) -> None:
    """Answers a spoken question in speech: a WAV file, and the text."""
    _check_question(audio, out)
    generation.check_options()
    model = generation.load()
    result = model.respond(audio=audio, options=generation.options(model), **generation.speech())
    show(_save_speech(result, out), as_json)


@app.command()
@generating
def stream(
    generation: Generation,
    audio: Annotated[
        Path | None, typer.Option(help="The spoken question; without one, the page's examples are measured.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where the answer's WAV goes.")] = None,
    mask: Annotated[
        str, typer.Option(help="streaming: speech starts before the text is complete; or full.")
    ] = "streaming",
    text_chunk: Annotated[int | None, typer.Option(help="C_t, text tokens per chunk; the checkpoint's own.")] = None,
    speech_chunk: Annotated[
        int | None, typer.Option(help="C_s, speech tokens per chunk; the checkpoint's own.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option(help="Measure so many warm answers instead, 20 of the examples.", min=1)
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Where the measurement goes, JSON.")] = None,
    as_json: AsJson = False,
) -> None:
    """Answers as s2s does, shows the text while it comes, and tells when each chunk of sound was ready; or measures."""
    from vocalnet import files

    chunks: dict[str, Any] = {"mask": mask, "text_chunk": text_chunk, "speech_chunk": speech_chunk}
    generation.check_options(**chunks)
    asked = stream_command.Asked(audio, repeats, results)
    is_measured = audio is None or repeats is not None
    if is_measured and out is not None:
        raise ValueError(
            "--out is for a single answer. Leave it out of a measurement, or give --audio without --repeats."
        )
    if not is_measured and (out is None or results is not None):
        raise ValueError("One answer needs --out, the WAV to write. To measure instead, give --repeats, and --results.")
    for name in (out, results):
        if name is not None:
            files.check_writable(name)
    if audio is not None:
        _check_question(audio)
    model = generation.load()
    options = generation.options(model, **chunks)
    if is_measured:
        report, text = stream_command.measure(model, asked, options, generation.speech())
        show(report, as_json, text=text)
    else:
        assert audio is not None
        assert out is not None
        result, times = stream_command.answer(model, audio, options, generation.speech())
        show({**_save_speech(result, out), **times}, as_json)


@app.command("eval")
@generating
def evaluate(
    generation: Generation,
    items: Annotated[
        str, typer.Option("--set", help="heldout (nano's questions), a JSON list of items, openaudiobench, or nll.")
    ],
    out: Out,
    grid: Annotated[
        str | None,
        typer.Option(
            help="table3, table4, seeds, policies, streaming or vocoder: compare on identical texts, resuming --out."
        ),
    ] = None,
    n: Annotated[
        int | None, typer.Option(help="Questions: 330 of heldout; all of a list, or of each set of a benchmark.", min=1)
    ] = None,
    n_speech: Annotated[
        int | None, typer.Option(help="How many answers are judged by ear: 100, or 200 of a grid.", min=0)
    ] = None,
    p835: Annotated[bool, typer.Option("--p835", help="Also score DNSMOS P.835, about 3 s an answer.")] = False,
    workdir: Annotated[Path, typer.Option(help="Where the clips of the held-out set are kept.")] = Path("work/heldout"),
    data: Annotated[
        Path | None, typer.Option(help="openaudiobench: its folder; nll: a list in the training format.")
    ] = None,
    judge_url: Annotated[
        str | None, typer.Option(help="openaudiobench: an OpenAI-compatible URL; exact match without one.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at that URL.")] = None,
    judge_key_env: Annotated[str, typer.Option(help="The environment variable with its key.")] = "OPENAI_API_KEY",
    asr: Annotated[
        str, typer.Option(help="openaudiobench: pocketsphinx, or Whisper as folder or hub id.")
    ] = "pocketsphinx",
    utmos: Annotated[Path | None, typer.Option(help="openaudiobench: UTMOS's weights, to score speech by.")] = None,
    text_only: Annotated[bool, typer.Option("--text-only", help="openaudiobench: s->t only.")] = False,
    mask: Annotated[str, typer.Option(help="nll: the talker's mask, full or streaming.")] = "full",
    as_json: AsJson = False,
) -> None:
    """Measures right answers, word error rates and MOS on a set of spoken questions; or runs a benchmark."""
    from vocalnet import evaluation, files

    generation.check_options()
    seed = generation.seed or 0
    files.check_writable(out)
    if items in benchmarks.NAMES:
        asked = benchmarks.Asked(data, n, judge_url, judge_model, judge_key_env, asr, utmos, text_only, mask)
        report, text = benchmarks.run(items, generation, out, asked)
        del report["cells"]
        show(report, as_json, text=text)
        return
    if grid is not None:
        benchmarks.check_grid(generation, grid)
    if items == "heldout":
        from vocalnet.training.heldout import heldout_items

        questions = heldout_items(workdir, n or 330)  # the same set, whatever the seed of the draws
    else:
        questions = evaluation.load_items(items)[:n]
    model = generation.load()
    outside = _outside(model, p835)
    if n_speech is None:
        n_speech = 100 if grid is None else 200
    if grid is not None and n_speech == 0:
        raise ValueError("A grid judges what it says: give --n-speech 1 or more.")
    if grid is not None:
        report = _run_grid(grid, model, questions, out, outside, {"seed": seed, "n_answers": n_speech})
        text = f"{len(report['cells'])} cells, {len(report['skipped'])} skipped; details in {out}"
    else:
        how: dict[str, Any] = {"options": generation.options(model, seed=seed), "speech": generation.speech()}
        report = evaluation.evaluate(model, questions, seed=seed, n_speech=n_speech, **how, **outside)
        sound = {name: getattr(generation, name) for name in ("voice", "flow_steps", "flow_chunk")}
        report |= {name: value for name, value in sound.items() if value is not None}
        files.write_json(out, report)
        text = f"{report['right']} of {report['n']} right; details in {out}"
    del report["cells"]  # long: read in the file, not on a terminal
    show(report, as_json, text=text)


@app.command()
def bench(
    preset: Annotated[str, typer.Option(help="nano, vocalnet-1b, vocalnet-8b or vocalnet-qwen25-7b: the sizes.")],
    what: Annotated[str, typer.Option(help="talker, token2wav, first-audio or waterfall.")],
    out: Out,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="Weights are always random: speed does not depend on them.")
    ] = True,
    dtype: Annotated[
        str, typer.Option(help="float32, bfloat16, float16; or int8, which is float32 with that kernel.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    kernel: Annotated[str, typer.Option(help="plain, packed, int8 or, on a GPU, graphed.")] = "packed",
    heads: Annotated[str, typer.Option(help="Speech decoder heads, by commas.")] = "ntp,mtp_vocalnet",
    tokens_per_step: Annotated[str, typer.Option(help="Numbers by commas.")] = "1,3,5",
    n_tokens: Annotated[int, typer.Option(help="Speech tokens of each talker run.", min=1)] = 150,
    is_long: Annotated[
        bool, typer.Option("--long", help="Also compare the last 100 of 2,000 tokens with the first 100.")
    ] = False,
    repeats: Annotated[int, typer.Option(help="Measured runs; medians are reported.", min=1)] = 5,
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch's choice by default.", min=1)] = None,
    seed: int = 0,
    as_json: AsJson = False,
) -> None:
    """Measures speed at nano's or at the published sizes, with random weights."""
    import torch

    from vocalnet import files
    from vocalnet.bench import PRESETS, BenchOptions
    from vocalnet.bench import bench as run
    from vocalnet.checkpoint import NANO, named_dtype, usable_device
    from vocalnet.config import VocalNetConfig

    if preset != "nano" and preset not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}. Available: nano, {', '.join(PRESETS)}")
    options = BenchOptions(
        dtype=torch.float32 if dtype == "int8" else named_dtype(dtype),
        device=str(usable_device(device)),
        kernel="int8" if dtype == "int8" else kernel,
        heads=tuple(heads.split(",")),
        tokens_per_step=_counts(tokens_per_step, "--tokens-per-step"),
        n_tokens=n_tokens,
        repeats=repeats,
        seed=seed,
        is_long=is_long,
    )
    files.check_writable(out)
    if threads is not None:
        torch.set_num_threads(threads)
    tokenizer = None
    if what in ("first-audio", "waterfall"):
        from transformers import AutoConfig, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(NANO, config=AutoConfig.for_model("llama"))
    config = VocalNetConfig.from_file(NANO / "config.json") if preset == "nano" else PRESETS[preset]
    report = {"preset": preset, **run(config, what, options, tokenizer)}
    files.write_json(out, report)
    show(report, as_json, text=f"{len(report['cells'])} cells; details in {out}")


@app.command("report")
def make_report(
    results: Annotated[
        list[Path] | None, typer.Argument(help="Results of eval and bench; those in results/ by default.")
    ] = None,
    readme: Annotated[
        Path | None, typer.Option(help="Rewrite the marked tables of this file.", exists=True, dir_okay=False)
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if --readme is not up to date.")] = False,
    figures: Annotated[Path | None, typer.Option(help="Draw the grids' figures into this folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Turns results into the README's tables, and into figures; without options, prints the tables."""
    from vocalnet import files
    from vocalnet.report import fill, load_results, sections

    reports = load_results(results or sorted(Path("results").glob("*.json")))
    if not reports:
        raise ValueError("There are no results in the folder results/. Name the files, or run vocalnet eval first.")
    tables = sections(reports)
    drawn = _draw(reports, figures) if figures is not None else []
    if readme is not None:
        text = readme.read_text(encoding="utf-8")
        filled = fill(text, tables)
        if check and filled != text:
            raise ValueError(
                f"The tables of {readme} are older than the results. Run: vocalnet report --readme {readme}"
            )
        if not check:
            with files.atomic_path(readme) as temporary:
                temporary.write_text(filled, encoding="utf-8")
    ours_first = sorted(tables, key=lambda name: name.startswith("published-"))
    shown = "\n\n".join(f"## {name}\n\n{tables[name]}" for name in ours_first)
    done = ", ".join([*drawn, *([str(readme)] if readme else [])])
    show({"tables": tables, "figures": drawn}, as_json, text=done or shown)


@app.command()
def info(model: Model = "nano", as_json: AsJson = False) -> None:
    """Describes a checkpoint: layout, sizes, what is missing and how to get it."""
    import yaml

    from vocalnet.checkpoint import describe

    described = describe(model)
    show(described, as_json, text=yaml.safe_dump(described, sort_keys=False).strip())


@app.command()
def demo(
    model: Model = "nano",
    device: Device = None,
    dtype: Dtype = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    share: Annotated[bool, typer.Option(help="Make a public link through gradio.live.")] = False,
    queue: Annotated[int | None, typer.Option(help="How many jobs may wait for their turn, 16.", min=1)] = None,
) -> None:
    """Opens the playground in the browser."""
    try:
        from demo.page import serve
        from demo.state import App
        from demo.ui import build
    except ModuleNotFoundError as error:
        raise ValueError(f'The demo needs the package {error.name}: pip install "vocalnet[demo]"') from error
    playground = App.load(model, device=device, dtype=dtype)
    serve(build, playground, host=host, port=port, share=share, queue=queue)


def _outside(model: Any, has_p835: bool) -> dict[str, Any]:
    """Returns source voice, resynthesis and judges, as far as the machine and the model have them."""
    from vocalnet.evaluation import Judges
    from vocalnet.metrics.mos import Dnsmos
    from vocalnet.training.synthesis import source_voice

    has_flite = shutil.which("flite") is not None
    if not has_flite:
        tell("Without the program flite there is no source voice to compare with.")
    return {
        "source_voice": source_voice if has_flite else None,
        "resynthesise": model.resynthesise if getattr(model, "speech_tokenizer", None) else None,
        "judges": Judges(make_mos=functools.partial(Dnsmos, has_p835=has_p835)),
    }


def _run_grid(
    grid: str, model: Any, questions: list[dict[str, Any]], out: Path, outside: dict[str, Any], how: dict[str, Any]
) -> dict[str, Any]:
    """Measures a named grid into `out`, and takes over what an earlier run left there."""
    from vocalnet import files
    from vocalnet.grid import GridOptions, Outside, judgements_in, run_grid
    from vocalnet.grids import find_grid
    from vocalnet.report import load_results

    known = judgements_in(load_results([out])[out.stem]) if out.exists() else {}

    def save(report: dict[str, Any]) -> None:
        files.write_json(out, {"grid": grid, **report})

    cells = find_grid(grid, model.decoders)
    return run_grid(model, questions, cells, GridOptions(**how), Outside(**outside), known, save)


def _draw(reports: dict[str, Any], folder: Path) -> list[str]:
    """Draws Pareto plot and token histograms of every grid; returns the files."""
    try:
        from demo import plots
    except ModuleNotFoundError as error:
        raise ValueError(f'Figures need the package {error.name}: pip install "vocalnet[demo]"') from error
    from vocalnet import files
    from vocalnet.report import pareto_points

    drawn = []
    for name, report in reports.items():
        if "ceilings" not in report:
            continue
        ceilings = {f"{what} (ceiling)": row["wer"]["wer"] for what, row in report["ceilings"].items()}
        images = {"pareto": plots.pareto(pareto_points(report), ceilings)}
        heard = max(report["cells"], key=lambda cell: len(cell["token_stats"]["heads"]))  # of the most heads
        images["tokens"] = plots.token_histograms(heard["token_stats"], heard["cell"])
        single = next((cell for cell in report["cells"] if cell["decoder"] == "ntp"), None)
        if single is not None:  # as in the paper's Figure 3
            images["ntp-tokens"] = plots.token_histograms(single["token_stats"], single["cell"])
        for what, figure in images.items():
            with files.atomic_path(folder / f"{name}-{what}.png") as temporary:
                temporary.write_bytes(plots.png(figure))
            drawn.append(str(folder / f"{name}-{what}.png"))
    return drawn


def _counts(text: str, option: str) -> tuple[int, ...]:
    """Returns numbers from 1 on that are given by commas."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        raise ValueError(f"{option} {text!r} is not understood: give whole numbers from 1 by commas, such as 1,3,5")
    return tuple(map(int, words))


def _check_question(audio: Path, out: Path | None = None) -> None:
    """Refuses a bad recording or output name before a model is loaded."""
    from vocalnet import audio as recordings
    from vocalnet import files

    recordings.load_audio(audio)
    if out is not None:
        files.check_writable(out)


def _save_speech(result: Result, out: Path) -> dict[str, Any]:
    """Writes the answer's WAV and returns its record."""
    from vocalnet.audio import write_wav

    if result.audio is None:
        raise ValueError("This checkpoint has no speech decoder. Use `vocalnet s2t`, or load one that has.")
    write_wav(out, result.audio, result.sample_rate_hz)
    accepted = result.acceptance
    summary = asdict(accepted) | {"tokens_per_step": accepted.tokens_per_step}
    return asdict(result) | {"audio": str(out), "acceptance": summary}


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="vocalnet")


if __name__ == "__main__":
    main()
