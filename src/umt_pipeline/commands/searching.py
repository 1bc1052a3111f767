"""`umt search`, `umt similar`: places in videos that fit a sentence, or look like a clip."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

if TYPE_CHECKING:
    from umt_pipeline.compute.names import AskedPrecision
    from umt_pipeline.serving.search.search import Found, Hit, Query

app = typer.Typer()

NOTHING_FOUND = 4

IndexFolder = Annotated[Path, typer.Option("--index", help="The index: a folder that `umt index` wrote.")]
ModelSource = Annotated[
    str | None, typer.Option("--model", help="Where its model is now. Default: where it was when the index was made.")
]
Hits = Annotated[int, typer.Option("-k", "--hits", min=1, help="Hits that are wanted.")]
Label = Annotated[str | None, typer.Option(help="Only files of this label.")]
PathPattern = Annotated[
    str | None, typer.Option("--path", help="Only files whose path, or the end of it, fits a pattern such as 'holiday/*.mp4'.")
]
Split = Annotated[str | None, typer.Option(help="Only files of this split.")]
After = Annotated[str | None, typer.Option(help="Only files last changed then or later: 2024-05-01, or with a time; UTC.")]
Before = Annotated[str | None, typer.Option(help="Only files last changed earlier.")]
Open = Annotated[bool, typer.Option("--open", help="Open the best hit at its place in mpv, vlc or ffplay, or say how.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, with the hits below the cut-off.")]


@app.command()
def search(
    text: Annotated[str, typer.Argument(help="What is to be seen: a sentence, or a few words.")],
    index: IndexFolder,
    model: ModelSource = None,
    hits: Hits = 10,
    rerank: Annotated[
        int, typer.Option(min=0, help="Rank so many of the best places anew, by cosine and matching head, on their frames.")
    ] = 0,
    label: Label = None,
    path: PathPattern = None,
    split: Split = None,
    after: After = None,
    before: Before = None,
    all_: Annotated[bool, typer.Option("--all", help="Print what is below the cut-off, too.")] = False,
    open_: Open = False,
    as_json: AsJson = False,
) -> None:
    """Find the places in an index' files that fit a sentence.

    Exit status 0: something is found; 4: nothing is above the index' cut-off; 1: an
    error. Files that have vanished or changed since they were indexed are found, and
    it is said.

    umt search "a red bus turns left" --index data/videos.index --rerank 32
    """
    from umt_pipeline.serving.search.filters import Filters
    from umt_pipeline.serving.search.search import Query

    filters = Filters(label, path, split, after, before)
    _answer(index, model, Query(text=text, k=hits, rerank=rerank, filters=filters), all_, open_, as_json)


@app.command()
def similar(
    clip: Annotated[Path, typer.Argument(help="A video or image; it need not be in the index.")],
    index: IndexFolder,
    model: ModelSource = None,
    hits: Hits = 10,
    start: Annotated[float | None, typer.Option("--from", min=0, help="First second of the part that is meant.")] = None,
    end: Annotated[float | None, typer.Option("--to", min=0, help="Where that part ends.")] = None,
    label: Label = None,
    path: PathPattern = None,
    split: Split = None,
    after: After = None,
    before: Before = None,
    open_: Open = False,
    as_json: AsJson = False,
) -> None:
    """Find the places in an index' files that look like a clip.

    A clip that is in the index does not find itself. Exit status 0: there are hits; 4:
    there are none; 1: an error.

    umt similar clip.mp4 --index data/videos.index
    """
    from umt_pipeline.core.errors import ConfigError
    from umt_pipeline.serving.search.filters import Filters
    from umt_pipeline.serving.search.search import Query

    span = None
    if start is not None or end is not None:
        if end is None or end <= (start or 0.0):
            raise ConfigError(
                f"--from {start or 0:g}: expected --to with a later second, found {'none' if end is None else end}"
            )
        span = (start or 0.0, end)
    filters = Filters(label, path, split, after, before)
    _answer(index, model, Query(video=clip, span=span, k=hits, filters=filters), True, open_, as_json)


def _answer(folder: Path, source: str | None, query: Query, below: bool, open_best: bool, as_json: bool) -> None:
    """Search, and print what was found: hits on standard output, all else on standard error.

    Raises:
        typer.Exit: nothing was found, with that exit status.
    """
    from umt_pipeline import load
    from umt_pipeline.commands.players import open_place
    from umt_pipeline.serving.index.reading import Index
    from umt_pipeline.serving.search.search import search as search_index

    with Index.open(folder) as index:
        # What an index was made in is one of the names that it could be asked for by.
        loaded = load(source or index.model.source, cast("AskedPrecision", index.model.precision))
        found = search_index(loaded.embedder, index, query)
        document = _document(query, found) | {"index": str(folder), "generation": index.generation, "model": index.model.source}
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        for hit in found.hits if below else found.answers:
            typer.echo(hit_line(hit))
    for line in said(found):
        typer.echo(line, err=True)
    if open_best and found.answers:
        best = found.answers[0]
        typer.echo(best.note or open_place(best.path, best.start_s, best.end_s), err=True)
    if found.nothing_found:
        raise typer.Exit(NOTHING_FOUND)


def _document(query: Query, found: Found) -> dict[str, Any]:
    return {
        "query": query.text if query.text is not None else str(query.video),
        "nothing_found": found.nothing_found,
        "cutoff": found.cutoff.model_dump(mode="json") if found.cutoff else None,
        "notes": found.notes,
        "unusable": found.unusable,
        "took_ms": {name: round(value, 3) for name, value in found.took.items()},
        "hits": [asdict(hit) for hit in found.hits],
    }


def hit_line(hit: Hit) -> str:
    """Return a hit as a line: rank, score, place, file, and what else is known."""
    match = "" if hit.match is None else f"  match {hit.match:.2f}"
    place = "" if hit.start_s == hit.end_s else f"  {time_text(hit.start_s)}-{time_text(hit.end_s)}"
    more = "".join(f"  [{text}]" for text in (hit.label, hit.split) if text)
    return f"{hit.rank:3d}  {hit.score:.3f}{match}{place}  {hit.path}{more}{f'  ({hit.note})' if hit.note else ''}"


def said(found: Found) -> list[str]:
    """Return what is said beside the hits."""
    lines = found.notes
    if found.nothing_found:
        best = max((hit.score for hit in found.hits), default=None)
        why = "no file passes the filters" if best is None else f"the best of all places scores {best:.3f}"
        lines.append(f"nothing found: {why}")
    if found.cutoff:
        lines.append(found.cutoff.sentence)
    if found.unusable:
        lines.append(f"{found.unusable} of {len(found.hits)} hits are in files that have vanished or changed: index again")
    lines.append(", ".join(f"{name} {value:.1f} ms" for name, value in found.took.items()))
    return lines


def time_text(second: float) -> str:
    """Return a time in a file as hours, minutes and seconds: ``1:02:03.5``, ``2:03.5``."""
    tenths = round(second * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"
