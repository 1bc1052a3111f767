"""`umt import-checkpoint`, `umt export-checkpoint`: published weights as model folders, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer()


@app.command()
def import_checkpoint(
    file: Annotated[Path, typer.Argument(help="Published weights: a .pth, .pt or .safetensors file.")],
    kind: Annotated[str, typer.Option(help="student, encoder, classifier, detector, video-text or question-answering.")],
    out: Annotated[Path, typer.Option(help="Model folder to write.")],
    frames: Annotated[
        int | None,
        typer.Option(
            help="Frames of a clip. Default: those of the file's position table, or 8; stage 2: 4, fine-tuned 12.", min=1
        ),
    ] = None,
    image_size: Annotated[int, typer.Option(help="Side of a frame in pixels.", min=1)] = 224,
    heads: Annotated[int | None, typer.Option(help="Attention heads. Default: width / 64.", min=1)] = None,
    text_heads: Annotated[int | None, typer.Option(help="The same of the text encoder.", min=1)] = None,
    align_interval: Annotated[float, typer.Option(help="Blocks from one aligned block to the next.", min=1)] = 1.0,
    tokenizer: Annotated[
        str | None, typer.Option(help="Folder or hub name of the tokenizer of a video-text or question-answering model.")
    ] = None,
    allow_missing: Annotated[
        list[str] | None, typer.Option(help="Pattern of keys that may stay at initial values. Repeatable.")
    ] = None,
    allow_unexpected: Annotated[
        list[str] | None, typer.Option(help="Pattern of keys that may be left out. Repeatable.")
    ] = None,
    allow_class: Annotated[
        list[str] | None,
        typer.Option(help="Full name of a class of which the file holds settings; read as an empty dict. Repeatable."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model folder that is there.")] = False,
) -> None:
    """Turn a published checkpoint into a model folder: config.json, model.safetensors, README.md."""
    from umt_pipeline.exchange.convert import import_checkpoint as import_file
    from umt_pipeline.exchange.sizes import Asked

    report = import_file(
        file,
        kind,
        out,
        Asked(image_size, frames, heads, text_heads, align_interval),
        tokenizer=tokenizer,
        allow_missing=allow_missing or (),
        allow_unexpected=allow_unexpected or (),
        allow_classes=allow_class or (),
        force=force,
    )
    console = Console(soft_wrap=True, highlight=False)
    for line in (*report.lines(), f"wrote {out}"):
        console.print(line, markup=False)


@app.command()
def export_checkpoint(
    folder: Annotated[Path, typer.Argument(help="Model folder, such as data/06_models/stage1.")],
    out: Annotated[Path, typer.Option(help="File to write, .pth, .pt or .safetensors.")],
    fused_biases: Annotated[
        bool, typer.Option("--fused-biases", help="Write timm's qkv.bias in place of q_bias and v_bias.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Write a model folder's weights under the published names."""
    from umt_pipeline.exchange.convert import export_checkpoint as export_folder

    tensors = export_folder(folder, out, fused_biases=fused_biases, force=force)
    Console(soft_wrap=True, highlight=False).print(f"wrote {tensors} tensors to {out}", markup=False)
