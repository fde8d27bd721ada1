"""What every command shares: its common options, how it answers, and how it refuses bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

Model = Annotated[str, typer.Option(help="nano, a checkpoint folder, or a hub id.")]
Out = Annotated[Path, typer.Option(help="The file to write; it appears whole or not at all.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


class OneSentence(typer.core.TyperGroup):
    """Commands whose bad input ends with exit code 2 and one sentence on stderr, without a trace."""

    def invoke(self, ctx: Any) -> Any:
        """Runs a command."""
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            sentence = error.format_message()
        except ValueError as error:
            sentence = str(error)
        tell(" ".join(sentence.split()))
        raise typer.Exit(2)


def show(record: dict[str, Any], as_json: bool, text: str | None = None) -> None:
    """Prints a record as JSON, or `text` (by default the record's own)."""
    for warning in record.get("warnings", ()):
        tell(f"Warning: {warning}")
    typer.echo(json.dumps(record, ensure_ascii=False) if as_json else text or record["text"])


def tell(message: str) -> None:
    """Prints what is no part of the answer, on stderr."""
    typer.echo(message, err=True)
