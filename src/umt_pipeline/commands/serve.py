"""`umt serve`: the search page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()


@app.command()
def serve(
    name: Annotated[str | None, typer.Argument(help="A corpus: the name given to `umt init`. Without it, the demo.")] = None,
    index: Annotated[
        list[Path] | None, typer.Option(help="Folder of an index, of any videos, in place of a corpus. Repeatable.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Model folder, registered model, official file or open_clip:MODEL/TAG. Repeatable: several are shown side by "
            "side. Default: what the index was made with; of a corpus its champion, else its stage 2."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen at. Other than 127.0.0.1: a token is required.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0: any that is free.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(envvar="UMT_SERVE_TOKEN", help="What requests have to bring. Default: made up, where one is required."),
    ] = None,
    every: Annotated[
        float, typer.Option(min=0.1, help="Seconds from one look for a newer index or champion to the next.")
    ] = 30.0,
    update: Annotated[
        bool, typer.Option("--update", help="Bring the corpus' index up to date first; one that is not there is made anyway.")
    ] = False,
) -> None:
    """Open the search page: type a sentence, watch the places in videos that answer it.

    Of a corpus, the index is made first if it is not there. The page, and the same over
    HTTP for programs (/openapi.json), are served until Ctrl-C. A newer generation of the
    index and another champion are taken over without a restart.

    umt serve --index my_index --model data/06_models/stage2
    """
    from umt_pipeline.commands.serving import Asked, serve_until_told

    serve_until_told(Asked(name, tuple(index or ()), tuple(model or ()), host, port, token, every, update))
