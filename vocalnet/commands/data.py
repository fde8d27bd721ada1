"""vocalnet data: checks, tokenises, converts, counts and packs training pairs in the published format."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from vocalnet.commands.console import AsJson, OneSentence, show, tell

app = typer.Typer(
    cls=OneSentence,
    help="Training pairs in the published format: check, tokenise, convert, count, pack.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

List = Annotated[Path, typer.Argument(help="A list of pairs, .json or .jsonl.")]
Root = Annotated[Path | None, typer.Option(help="What the list's file names are relative to; its folder by default.")]
Answers = Annotated[
    Path | None,
    typer.Option(help="Recordings of the answers, called as their units (default: answers/ beside)."),
]
Workers = Annotated[int | None, typer.Option(help="Processes; one a core by default.", min=1)]


@app.command()
def validate(
    path: List,
    root: Root = None,
    n_units: Annotated[int, typer.Option(help="Vocabulary of the speech tokens; nano has 875.", min=1)] = 6561,
    rate_hz: Annotated[int, typer.Option(help="Sample rate that every recording must have.")] = 16_000,
    min_s: Annotated[float, typer.Option(help="Shortest question.")] = 0.1,
    max_s: Annotated[float, typer.Option(help="Longest question; Whisper hears 30 s at a time.")] = 30.0,
    needs_units: Annotated[bool, typer.Option("--units/--no-units", help="--no-units: a list for stage 1.")] = True,
    answers: Answers = None,
    workers: Workers = None,
    report: Annotated[Path | None, typer.Option(help="Also write the report to this JSON file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Names file and entry of every defect of a list; exit code 2 if there is any."""
    from vocalnet import files
    from vocalnet.data.validate import Limits, as_text
    from vocalnet.data.validate import validate as check

    if report is not None:
        files.check_writable(report)
    limits = Limits(n_units, rate_hz, min_s, max_s, needs_units=needs_units)
    found = check(path, root, limits, answers, workers)
    if report is not None:
        files.write_json(report, found)
    show(found, as_json, text=as_text(found))
    if found["n_defects"]:
        n = found["n_defects"]
        where = f"{found['n_bad_entries']} of {found['n_entries']} entries"
        raise ValueError(f"{path} has {n} {'defect' if n == 1 else 'defects'} in {where}.")


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A folder of .npy files, or a list that names them.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the plain arrays, under the same names.")] = None,
    in_place: Annotated[bool, typer.Option("--in-place", help="Replace the files instead.")] = False,
    root: Root = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Turns published units (pickled dicts) into plain integer arrays, without running what a pickle asks for."""
    from vocalnet.data.convert import convert as run
    from vocalnet.data.convert import units_files

    if (out is None) != in_place:
        raise ValueError("Say where the arrays go: either --out FOLDER or --in-place.")
    done = run(*units_files(source, root), out, workers)
    show(done, as_json, text=f"{done['n_converted']} converted, {done['n_plain']} plain already")
    _refuse(done["failed"], "was not converted")


@app.command()
def tokenize(
    source: Annotated[Path, typer.Argument(help="A list of pairs, or a folder of recordings.")],
    tokenizer: Annotated[str, typer.Option(help="speech_tokenizer_v2.onnx, nano, or a checkpoint in our layout.")],
    out: Annotated[Path | None, typer.Option(help="Of a folder: where its units go. A list says it itself.")] = None,
    root: Root = None,
    answers: Answers = None,
    is_anew: Annotated[bool, typer.Option("--anew", help="Remove units that exist; without it they are kept.")] = False,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Writes the speech tokens of recordings; stopped at any time, the same command goes on."""
    from vocalnet.data import tokenize as work

    if source.is_dir() == (out is None):
        raise ValueError("Give --out for a folder of recordings; a list names the files of its units itself.")
    jobs = work.jobs_of_list(source, root, answers) if out is None else work.jobs_of_folder(source, out)
    done = work.tokenize(jobs, tokenizer, workers, is_anew)
    text = f"{done['n_written']} written ({done['n_tokens']} tokens), {done['n_kept']} kept"
    show(done, as_json, text=text)
    _refuse(done["failed"], "was not tokenised")


@app.command()
def stats(
    path: List,
    root: Root = None,
    model: Annotated[str | None, typer.Option(help="Also count the text tokens of this model's LLM.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the durations into this PNG.")] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Counts hours, words and tokens of a list."""
    from vocalnet import files
    from vocalnet.data.statistics import as_text, statistics

    if figure is not None:
        files.check_writable(figure)
    report = statistics(path, root, None if model is None else _token_counter(model), workers)
    if figure is not None:
        _draw_durations(report["histogram"], figure)
    show(report, as_json, text=as_text(report))


@app.command()
def pack(
    path: List,
    out: Annotated[Path, typer.Option(help="Folder for the packs.")],
    root: Root = None,
    pack_mb: Annotated[int, typer.Option(help="About so many MB each.", min=1)] = 256,
    as_json: AsJson = False,
) -> None:
    """Copies a list and its files into packs (JSONL and tar) that are read from front to end."""
    from vocalnet.data.streams import pack as run

    packs = [str(name) for name in run(path, out, root, pack_mb * 2**20)]
    show({"packs": packs}, as_json, text="\n".join(packs))


def _token_counter(model: str) -> Callable[[str], int]:
    """Returns text -> number of tokens of a model's LLM."""
    from transformers import AutoConfig, AutoTokenizer

    from vocalnet.checkpoint import read_values, resolve

    folder = resolve(model)
    config = None
    if read_values(folder)["model_type"] == "vocalnet":  # else the tokenizer would ask config.json for the LLM
        config = AutoConfig.for_model(read_values(folder)["llm"]["model_type"])
    tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False))


def _draw_durations(histogram: dict[str, list[float]], path: Path) -> None:
    try:
        from demo import plots
    except ModuleNotFoundError as error:
        raise ValueError(f'Figures need the package {error.name}: pip install "vocalnet[demo]"') from error
    from vocalnet import files

    with files.atomic_path(path) as temporary:
        temporary.write_bytes(plots.png(plots.durations(histogram)))


def _refuse(failed: list[dict[str, str]], what: str) -> None:
    """Names the files that could not be used, and ends with exit code 2 if there are any."""
    for row in failed[1:]:
        tell(f"{row['file']} {what}: {row['problem']}")
    if failed:
        raise ValueError(f"{failed[0]['file']} {what}: {failed[0]['problem']} ({len(failed)} in all)")
