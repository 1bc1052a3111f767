"""`umt embed`, `umt index`: the vectors of a folder of videos, and an index of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from umt_pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

    from umt_pipeline.serving.embedder import Embedder
    from umt_pipeline.serving.embedding.gathering import Asked, Gathered
    from umt_pipeline.serving.index.building import Built
    from umt_pipeline.serving.models import Model

app = typer.Typer()

# Exit status where some of the files could not be read; they are named.
SOME_FAILED = 3
_MOST_NAMED = 50

Folder = Annotated[Path, typer.Argument(help="Folder with video files and captioned images, searched to any depth.")]
ModelSource = Annotated[
    str, typer.Option("--model", help="Model folder, models:/NAME@ALIAS, checkpoint file, or open_clip:MODEL/TAG.")
]
PrecisionName = Annotated[str, typer.Option("--precision", help="auto, fp32 or bf16; auto: bf16 where it pays.")]
Length = Annotated[float, typer.Option("--length", min=0.1, help="Seconds of a window.")]
Stride = Annotated[float, typer.Option("--stride", min=0.1, help="Seconds from the begin of one window to that of the next.")]
Snap = Annotated[
    float | None,
    typer.Option(
        "--snap",
        min=0.0,
        help="Seconds that a window moves at most, to a scene change; 0: none are looked for. Default: 1, or a fifth of the "
        "stride where that is less.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust", help="The files are sound: do not decode short ones whole in a guarded process before they are read."
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Windows that are encoded at once.")]
WorkerCount = Annotated[
    int | None, typer.Option("--workers", min=1, help="Processes that check, and threads that decode. Default: one per core.")
]
KnownTable = Annotated[
    Path | None,
    typer.Option("--table", help="Table with a column path (within FOLDER), and label, split or both: what is searched by."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def embed(
    folder: Folder,
    model: ModelSource,
    out: Annotated[Path, typer.Option(help="Folder to write; one that an earlier call wrote is brought up to date.")],
    form: Annotated[str, typer.Option("--format", help="parquet: vectors in a table; npy: in an array beside it.")] = "parquet",
    precision: PrecisionName = "auto",
    length: Length = 10.0,
    stride: Stride = 5.0,
    snap: Snap = None,
    table: KnownTable = None,
    trust: Trust = False,
    batch_size: BatchSize = 16,
    workers: WorkerCount = None,
    as_json: AsJson = False,
) -> None:
    """Write the vectors of the videos of a folder, window by window, with a manifest.

    A second run embeds only files that are new or have other content. Killed anywhere, it
    goes on with the file that it was at. Exit status 0: all are embedded; 3: some files
    cannot be read, and are named; 1: an error.

    umt embed holiday/ --model data/06_models/stage2 --out vectors/
    """
    from umt_pipeline.serving.embedding.vector_files import Form, write_vectors

    if form not in ("parquet", "npy"):
        raise ConfigError(f"--format: expected parquet or npy, found {form!r}")
    chosen: Form = "parquet" if form == "parquet" else "npy"
    asked = _asked(folder, (length, stride, snap), _known(table, folder), trust, batch_size, workers)
    embedder, source = _embedder(_load(model, precision))
    written = write_vectors(out, asked, embedder, source, chosen)
    if as_json:
        typer.echo(json.dumps({"out": str(out), "is_new": written.is_new} | written.manifest | _failures(written.gathered)))
    else:
        state = "wrote" if written.is_new else "in step already:"
        typer.echo(f"{state} {written.manifest['windows']} windows of {len(written.gathered.files)} files in {out}", err=True)
    _end(written.gathered)


@app.command()
def index(
    folder: Folder,
    model: ModelSource,
    out: Annotated[Path, typer.Option(help="Folder of the index; one that is there is brought up to date.")],
    precision: PrecisionName = "auto",
    length: Length = 10.0,
    stride: Stride = 5.0,
    snap: Snap = None,
    table: KnownTable = None,
    env: Annotated[
        str | None,
        typer.Option("--env", help="Corpus that the folder is of (base: the demo): its tables give labels, splits, captions."),
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="Table with columns path (within FOLDER) and caption: the cut-off is calibrated on it."),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Search for the captions, and write report.html into the index.")
    ] = False,
    rerank: Annotated[int, typer.Option(min=0, help="In the report, also re-rank so many places.")] = 0,
    anew: Annotated[bool, typer.Option("--anew", help="Use nothing of the index that is there, which may be damaged.")] = False,
    trust: Trust = False,
    batch_size: BatchSize = 16,
    workers: WorkerCount = None,
    as_json: AsJson = False,
) -> None:
    """Build an index of the videos of a folder, or bring one up to date.

    Only files that are new or have other content are embedded; moved ones are not. What
    was there serves until the new generation is whole, also where another --model is
    given. Killed anywhere, the same command goes on with the file that it was at. Exit
    status 0: all files are in it; 3: some cannot be read, and are named; 1: an error.

    umt index holiday/ --model data/06_models/stage2 --out holiday.index
    """
    from umt_pipeline.serving.index.building import build_index

    known, said = _known(table, folder), None
    if env is not None:
        if table is not None or captions is not None:
            raise ConfigError("--env gives labels, splits and captions: expected it without --table and --captions")
        known, said = _clean(env)
    elif captions is not None:
        from umt_pipeline.serving.search.captions import read_captions

        said = read_captions(captions, folder.resolve())
    if report and said is None:
        raise ConfigError("--report: expected captions to search for, found none: give --captions FILE or --env NAME")
    asked = _asked(folder, (length, stride, snap), known, trust, batch_size, workers)
    loaded = _load(model, precision)
    embedder, source = _embedder(loaded)
    built = build_index(out, asked, embedder, source, anew)
    cutoff = _outdated(out) if said is None else _calibrated(out, embedder, said, report, rerank)
    if as_json:
        typer.echo(json.dumps(_document(out, built, cutoff)))
    else:
        for line in _lines(out, built, cutoff):
            typer.echo(line, err=True)
    _end(built.gathered)


def _asked(
    folder: Path,
    seconds: tuple[float, float, float | None],
    known: pd.DataFrame | None,
    trust: bool,
    batch_size: int,
    workers: int | None,
) -> Asked:
    from umt_pipeline.project_config import validated
    from umt_pipeline.serving.embedding.gathering import Asked
    from umt_pipeline.serving.embedding.windows import WindowRule

    length, stride, snap = seconds
    # A window that moves by a quarter of the stride may begin where the next one does.
    values = {"length_s": length, "stride_s": stride, "snap_s": min(1.0, stride / 5) if snap is None else snap}
    rule = validated(WindowRule, values, "windows")
    asked = Asked(folder, rule, trust=trust, batch_size=batch_size, workers=workers)
    return asked if known is None else Asked(**{**asked.__dict__, "known": known})


def _known(table: Path | None, folder: Path) -> pd.DataFrame | None:
    from umt_pipeline.serving.embedding.gathering import read_known

    return None if table is None else read_known(table, folder)


def _clean(env: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    from umt_pipeline.commands.clean_tables import clean_tables
    from umt_pipeline.commands.terminal import project_folder

    return clean_tables(project_folder(), env)


def _load(model: str, precision: str) -> Model:
    import umt_pipeline as umt
    from umt_pipeline.compute.names import AskedPrecision

    names: dict[str, AskedPrecision] = {"auto": "auto", "fp32": "fp32", "bf16": "bf16"}
    if precision not in names:
        raise ConfigError(f"--precision: expected auto, fp32 or bf16, found {precision!r}")
    return umt.load(model, names[precision])


def _embedder(model: Model) -> tuple[Embedder, str]:
    """Return what embeds, and where it is found again from any folder.

    Raises:
        ConfigError: the model does not embed.
    """
    if model.embedder is None:
        can = ", ".join(sorted(model.abilities)) or "nothing"
        raise ConfigError(
            f"{model.source}: expected a model that embeds videos, found one of kind {model.kind!r}, which can {can}"
        )
    local = Path(model.source)
    return model.embedder, str(local.resolve()) if local.exists() else model.source


def _calibrated(out: Path, embedder: Embedder, captions: pd.DataFrame, report: bool, rerank: int) -> str:
    """Calibrate the index' cut-off, and write the report if it is wanted; return what came out in words."""
    from umt_pipeline.serving.index.reading import Index
    from umt_pipeline.serving.search.calibration import best_scores, calibrate, keep_cutoff
    from umt_pipeline.serving.search.page import write_report
    from umt_pipeline.serving.search.report import measure

    with Index.open(out) as opened:
        if report:
            measured = measure(embedder, opened, captions, rerank)
            provenance = {"index": str(out), "generation": opened.generation, "model": opened.model.model_dump(mode="json")}
            write_report(measured, out / "report.html", provenance)
            typer.echo(f"report: {out / 'report.html'}", err=True)
            cutoff = measured.cutoff
        else:
            cutoff = calibrate(best_scores(embedder, opened, captions), len(opened.windows))
        keep_cutoff(opened, cutoff)
        return cutoff if isinstance(cutoff, str) else cutoff.sentence


def _outdated(out: Path) -> str | None:
    from umt_pipeline.serving.index.reading import Index
    from umt_pipeline.serving.search.calibration import outdated_cutoff

    with Index.open(out) as opened:
        return outdated_cutoff(opened)


def _document(out: Path, built: Built, cutoff: str | None) -> dict[str, Any]:
    manifest = built.manifest
    facts = {name: manifest.facts[name] for name in ("files", "windows", "seconds", "bytes")}
    return {
        "index": str(out),
        "generation": manifest.generation,
        "is_new": built.is_new,
        "model": manifest.model.model_dump(mode="json"),
        "rule": manifest.rule.model_dump(mode="json"),
        "segments": [{"rows": segment.rows, **segment.search} for segment in manifest.segments],
        "cutoff": cutoff,
        **facts,
        **_failures(built.gathered),
    }


def _lines(out: Path, built: Built, cutoff: str | None) -> list[str]:
    files = built.manifest.facts["files"]
    state = "generation" if built.is_new else "nothing new; still generation"
    lines = [
        f"{out}: {state} {built.manifest.generation}: {built.manifest.facts['windows']} windows of {files['indexed']} files; "
        f"of {files['found']} files found {files['copies']} are copies and {files['failed']} cannot be read"
    ]
    lines += [f"left out beside them: {count} {reason}" for reason, count in built.gathered.beside.items()]
    return lines + ([cutoff] if cutoff is not None else [])


def _failures(gathered: Gathered) -> dict[str, Any]:
    return {"failures": gathered.failed.to_dict("records"), "left_out_beside": dict(gathered.beside)}


def _end(gathered: Gathered) -> None:
    """Name what cannot be read, and end with its exit status if there is such."""
    failed = gathered.failed
    for row in failed.head(_MOST_NAMED).itertuples():
        typer.echo(f"{row.path}: {row.reason}: {row.detail}", err=True)
    if len(failed) > _MOST_NAMED:
        typer.echo(f"and {len(failed) - _MOST_NAMED} more, in left_out.parquet", err=True)
    if len(failed):
        raise typer.Exit(SOME_FAILED)
