"""The commands `umt tables` and `umt tables read`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Turn the annotation files of public data sets into tables for the ingestion.")


@app.callback(invoke_without_command=True)
def readers(context: typer.Context) -> None:
    """List the readers: data set, files, tables."""
    if context.invoked_subcommand is not None:
        return
    from umt_pipeline.tables import READERS

    table = Table("reader", "data set and files", "ROLE: name of the public file", "tables", box=None)
    for reader in READERS.values():
        roles = "\n".join(f"{role.name}: {', '.join(role.patterns) or 'ROLE=FILE'}" for role in reader.roles)
        table.add_row(reader.name, reader.what, roles, ", ".join(reader.tables))
    console = Console()
    # Without a terminal rich assumes 80 columns, too few for four columns of names.
    (console if console.is_terminal else Console(width=180)).print(table, markup=False)


@app.command()
def read(
    name: Annotated[str, typer.Argument(help="Name of the reader; `umt tables` lists them.")],
    files: Annotated[
        list[str], typer.Argument(help="Files under their public names, folders of them, or ROLE=FILE.", metavar="FILE...")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    media_suffix: Annotated[
        str | None, typer.Option(help="Of media files, where the annotations do not name it, such as .mp4.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Keep the first LIMIT videos of each split.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder that an earlier call wrote.")] = False,
) -> None:
    """Write the tables of a public data set, with hashes of its files, counts and warnings.

    umt tables read ucf101 ucfTrainTestlist/*01.txt ucfTrainTestlist/classInd.txt --out tables/ucf101
    """
    from umt_pipeline.tables import check_folder, find_reader, write_annotations

    reader = find_reader(name)
    check_folder(out, force=force)
    annotations = reader.read(reader.assign(files), media_suffix)
    if limit is not None:
        annotations = annotations.limited(limit)
    written = write_annotations(annotations, out, force=force)
    console = Console(soft_wrap=True, highlight=False)
    for key, number in annotations.counts.items():
        console.print(f"{key}: {number:,}", markup=False)
    for warning in annotations.warnings:
        console.print(f"warning: {warning}", markup=False)
    console.print(f"wrote {', '.join(path.name for path in written)} to {out}", markup=False)
