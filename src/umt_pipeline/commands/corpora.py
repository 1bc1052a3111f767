"""`umt init`, `umt update`, `umt status`, `umt stages`: corpora of one's own, and what would run of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from umt_pipeline.commands.terminal import project_folder, say
from umt_pipeline.core.errors import ConfigError

app = typer.Typer()

CorpusName = Annotated[str, typer.Argument(help="The corpus: the name given to `umt init`.")]
Captions = Annotated[
    str | None, typer.Option(help="Table (.csv .tsv .json .jsonl .parquet) with columns video, caption; also an address.")
]
Labels = Annotated[str | None, typer.Option(help="Table with columns video, label, and task if there are several.")]
Questions = Annotated[str | None, typer.Option(help="Table of questions; docs/own_videos.md says its columns.")]
Boxes = Annotated[str | None, typer.Option(help="Table of boxes; docs/own_videos.md says its columns.")]


def _tables(captions: str | None, labels: str | None, questions: str | None, boxes: str | None) -> dict[str, Path]:
    from umt_pipeline.commands.corpus import local_table

    named = {"captions": captions, "labels": labels, "questions": questions, "boxes": boxes}
    return {name: local_table(project_folder(), source) for name, source in named.items() if source is not None}


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Name of the new corpus: conf/NAME, data/NAME, corpora/NAME are made.")],
    videos: Annotated[
        str,
        typer.Option(
            help="Folder with video files and captioned images, searched to any depth, or with WebDataset shards; also an "
            "address such as s3://bucket/videos."
        ),
    ],
    captions: Captions = None,
    labels: Labels = None,
    questions: Questions = None,
    boxes: Boxes = None,
    class_folders: Annotated[
        bool, typer.Option("--class-folders", help="The first folder that a video lies in is its label.")
    ] = False,
    splits: Annotated[
        str,
        typer.Option(
            help="Shares of train, validation and test in per cent; or a table of them: FILE or FILE:COLUMN, also an address."
        ),
    ] = "80,10,10",
    media: Annotated[
        str, typer.Option(help="leave: the videos stay where they are, DVC keeps hashes; add: DVC keeps copies of them.")
    ] = "leave",
    prepare: Annotated[
        bool, typer.Option("--prepare", help="Transcode the videos once, into a form that training reads fast.")
    ] = False,
    like: Annotated[
        str | None, typer.Option(help="Environment whose parameters to start from, such as umt_b16. Default: the demo's.")
    ] = None,
) -> None:
    """Make a corpus of your own videos: configuration, raw tables under DVC, and stages for `dvc repro`."""
    from umt_pipeline.commands.init import Given, init_corpus
    from umt_pipeline.commands.splits import local_splits

    if media not in ("add", "leave"):
        raise ConfigError(f"--media: expected add or leave, found '{media}'.")
    tables = _tables(captions, labels, questions, boxes)
    splits = local_splits(project_folder(), splits)
    given = Given(videos, tables, splits, "add" if media == "add" else "leave", class_folders, prepare, like)
    say(init_corpus(project_folder(), name, given))


@app.command()
def update(
    name: CorpusName,
    captions: Captions = None,
    labels: Labels = None,
    questions: Questions = None,
    boxes: Boxes = None,
    splits: Annotated[str | None, typer.Option(help="How new files are split, if not as `umt init` was told.")] = None,
) -> None:
    """Take in what came, went, moved or changed in a corpus' folder, and new versions of its tables.

    Known files keep their split, and what is known of them: only new content is read again.
    """
    from umt_pipeline.commands.splits import local_splits
    from umt_pipeline.commands.update import update_corpus

    splits = local_splits(project_folder(), splits) if splits else None
    say(update_corpus(project_folder(), name, _tables(captions, labels, questions, boxes), splits))


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A corpus. Without it, the demo.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit status 1 if something would run.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as for a pull request.")] = False,
    due: Annotated[bool, typer.Option("--due", help="Print the corpora of which a stage would run, as a JSON list.")] = False,
    imports: Annotated[bool, typer.Option("--imports", help="With --due: those whose data comes from elsewhere, too.")] = False,
) -> None:
    """Say which stages `dvc repro` would run, and why. Needs no data."""
    from umt_pipeline.commands.status import due_corpora, markdown_status, print_status, project_status
    from umt_pipeline.registry.names import own_corpus

    if due:
        typer.echo(json.dumps(due_corpora(project_folder(), imports)))
        return
    if markdown:
        found = project_status(project_folder(), own_corpus(name))
        typer.echo(markdown_status(found))
        in_step = all(status.in_step for status in found)
    else:
        console = Console() if sys.stdout.isatty() else Console(width=160)
        in_step = print_status(console, project_folder(), own_corpus(name))
    if check and not in_step:
        raise typer.Exit(1)


@app.command()
def stages(
    name: Annotated[str | None, typer.Argument(help="A corpus. Without it, the demo: the dvc.yaml of the project.")] = None,
) -> None:
    """Write dvc.yaml anew, from the pipelines, the catalog, the parameter files and the imports.

    Needed when one of these has changed; `umt init` and `umt update` do it for a corpus.
    """
    from umt_pipeline.commands.corpus import existing_corpus
    from umt_pipeline.dvc_stages import write_stages
    from umt_pipeline.registry.names import own_corpus

    project, corpus = project_folder(), own_corpus(name)
    names = existing_corpus(project, corpus).pipelines() if corpus else None
    Console().print(str(write_stages(project, corpus, names)), soft_wrap=True, highlight=False)
