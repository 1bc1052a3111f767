"""`umt export`: models for other runtimes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from umt_pipeline.core.errors import ConfigError, TableError

if TYPE_CHECKING:
    import pandas as pd

    from umt_pipeline.exchange.runtimes.samples import Samples
    from umt_pipeline.video.views import ViewConfig

app = typer.Typer()

# So many clips of a folder are enough to see what 8 bits lose.
MOST_CLIPS = 64


@app.command()
def export(
    model: Annotated[
        str,
        typer.Argument(help="Folder of a model of stage 1, stage 2 or a classifier, models:/NAME@ALIAS, or a published file."),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format: Annotated[str, typer.Option(help="onnx, torch (programs of torch.export) or transformers.")],
    int8: Annotated[bool, typer.Option("--int8", help="Also write ONNX models with weights of 8 bits, for CPUs.")] = False,
    clips: Annotated[
        Path | None, typer.Option(help=f"Folder of videos to compare on, up to {MOST_CLIPS}. Default: clips of the demo world.")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(help="Table with columns video, caption, of --clips. Default: captions beside the videos."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Write a model for ONNX Runtime, torch.export or transformers.

    What is written reads whole numbers from 0 to 255 and normalises them itself. It is
    run and compared with the model, and nothing is left behind if it differs by more
    than 1e-4 (transformers: 1e-5). manifest.json holds sizes, hashes and what was measured.

    umt export data/06_models/stage2 --format onnx --int8 --out exported
    """
    from umt_pipeline.exchange.runtimes.samples import drawn_samples
    from umt_pipeline.exchange.runtimes.writing import export_model

    if clips is None and captions is not None:
        raise ConfigError(f"--captions {captions} goes with --clips: drawn clips have captions of their own")
    failed: dict[str, str] = {}

    def given(view: ViewConfig) -> Samples:
        assert clips is not None, "only then are clips given"
        return _read(clips, captions, view, failed)

    samples_for = drawn_samples if clips is None else given
    folder, source = _found(model)
    manifest = export_model(folder, out, format, as_int8=int8, samples_for=samples_for, source=source, force=force)
    typer.echo(json.dumps(manifest, indent=2) if as_json else "\n".join(_lines(out, manifest)))
    if failed:
        listed = "".join(f"\n  {path}: {reason}" for path, reason in failed.items())
        typer.echo(f"not compared on {len(failed)} clips that cannot be read:{listed}", err=True)
        raise typer.Exit(3)


def _found(model: str) -> tuple[Path, str]:
    """Return a model's folder, and what it is called: the version that an alias means now, or the name of a folder or file."""
    from umt_pipeline.registry.loading import find_registered
    from umt_pipeline.serving.sources import find

    if not model.startswith("models:/"):
        return find(model, {}).folder, Path(model).resolve().name
    found = find_registered(model)
    assert found.facts is not None, "a version has them"
    return found.folder, f"models:/{found.facts['name']}/{found.facts['version']}"


def _read(folder: Path, captions: Path | None, view: ViewConfig, failed: dict[str, str]) -> Samples:
    """Read clips and their captions; those that cannot be read are noted in ``failed``, with the reason."""
    from umt_pipeline.core.progress import progress
    from umt_pipeline.evaluation.decoding import decoded
    from umt_pipeline.exchange.runtimes.samples import given_samples
    from umt_pipeline.serving.files import load_frames
    from umt_pipeline.tables.folders import read_folder

    found = read_folder(folder)
    table = found.captions if captions is None else _caption_table(captions)
    names = found.videos["video"].tolist()[:MOST_CLIPS]
    frames: dict[str, Any] = {}
    with progress(f"clips of {folder}", len(names), "clip") as show:
        for read, broken in decoded(names, lambda name: load_frames(folder / name, view), 4, os.cpu_count() or 1):
            frames |= read
            failed |= broken
            show(len(frames) + len(failed))
    texts = table[table["video"].isin(list(frames))]["caption"].drop_duplicates().tolist()
    return given_samples(frames, texts, f"{len(frames)} clips of {folder.resolve().name}")


def _caption_table(path: Path) -> pd.DataFrame:
    from umt_pipeline.tables.files import read_table

    table = read_table(path)
    if missing := [name for name in ("video", "caption") if name not in table]:
        raise TableError(f"{path}: expected columns video, caption; missing: {', '.join(missing)}")
    return table


def _lines(out: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what was written, for people."""
    files = manifest["files"]
    for name, part in manifest["parts"].items():
        parity = part["parity"]
        yield f"{name}: differs from the model by {parity['largest_difference']:.1e} at most (allowed {parity['limit']:.0e})"
        if small := part.get("int8"):
            share = files[small["file"]]["bytes"] / files[part["file"]]["bytes"]
            yield (
                f"{name}, int8: cosine to fp32 {small['cosine_mean']:.5f} in the mean, {small['cosine_min']:.5f} at least; "
                f"same nearest {100 * small['top1_agreement']:.1f} %; {100 * share:.0f} % of the bytes; "
                f"{small['int8_per_s'] / small['fp32_per_s']:.2f} times as fast"
            )
    if search := manifest.get("int8_search"):
        yield (
            f"int8 search: same first clip for {100 * search['top1_agreement_text_to_video']:.1f} % of texts, same first text "
            f"for {100 * search['top1_agreement_video_to_text']:.1f} % of clips"
        )
    yield f"compared on {manifest['compared_on']}"
    yield f"wrote {out}: {', '.join(files)}, manifest.json"
