"""vocalnet push and vocalnet space: a checkpoint, and a page around nano, as others find them on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vocalnet.commands.console import AsJson, Model, show

Results = Annotated[
    list[Path] | None, typer.Option(help="Results of vocalnet eval for the card; nano's own by default.")
]


def push(
    repo: Annotated[str, typer.Option(help="Where to, such as user/name.")],
    model: Model = "nano",
    results: Results = None,
    license_: Annotated[str | None, typer.Option("--license", help="Such as apache-2.0; the README's.")] = None,
    base_model: Annotated[list[str] | None, typer.Option(help="Hub id of the LLM it was trained from.")] = None,
    dataset: Annotated[list[str] | None, typer.Option(help="Hub id of what it was trained on.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="Such as en; the README's by default.")] = None,
    out: Annotated[Path | None, typer.Option(help="With --dry-run: the folder to write.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only write the folder; nothing is uploaded.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    as_json: AsJson = False,
) -> None:
    """Uploads a checkpoint with a model card whose numbers come from results files."""
    import tempfile

    from vocalnet.provenance import ROOT
    from vocalnet.training.hub import stage, upload

    if dry_run == (out is None):
        raise ValueError("--dry-run and --out FOLDER go together: the folder is what would be uploaded.")
    if results is None:
        results = [path for path in [ROOT / "results" / "eval-nano.json"] if model == "nano" and path.is_file()]
    given = {"license": license_, "base_model": base_model, "datasets": dataset, "language": language}
    facts = {name: value for name, value in given.items() if value}
    if out is not None:
        folder = str(stage(model, repo, out, results, facts))
        show({"folder": folder, "url": None}, as_json, text=f"{folder} is ready; nothing was uploaded")
        return
    with tempfile.TemporaryDirectory() as name:
        url = upload(stage(model, repo, Path(name) / "model", results, facts), repo, private)
    show({"folder": None, "url": url}, as_json, text=url)


def space(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("build/space"),
    models: Annotated[list[str] | None, typer.Option(help="Hub ids of the models that it shows.")] = None,
    as_json: AsJson = False,
) -> None:
    """Writes a Space folder: the page, nano, and pinned requirements."""
    from vocalnet.training.space import write_space

    folder = str(write_space(out, models or []))
    upload = f"hf upload USER/NAME {folder} --repo-type space"
    show({"folder": folder}, as_json, text=f"{folder}\nTo publish it: {upload}")
