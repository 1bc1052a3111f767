"""`umt describe`, `umt classify`, `umt ask`: what a model is, and what it says of videos."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from kedro.utils import find_kedro_project
from rich.console import Console

from umt_pipeline.commands.terminal import say
from umt_pipeline.core.errors import ConfigError

if TYPE_CHECKING:
    from umt_pipeline.serving.sources import Options

app = typer.Typer()

# Exit status where some of the videos could not be read; they are named.
SOME_FAILED = 3

_MODEL_HELP = "Model folder, models:/NAME@ALIAS, checkpoint file, or open_clip:MODEL/TAG."
ModelOption = Annotated[str, typer.Option("--model", help=_MODEL_HELP)]
Environment = Annotated[
    str | None,
    typer.Option("--env", help="Corpus whose model it is, to ask it as in its test. Default: the demo."),
]
Top = Annotated[int, typer.Option(min=1, help="So many of the likeliest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


@app.command()
def describe(
    model: Annotated[str, typer.Argument(help=_MODEL_HELP)],
    as_json: AsJson = False,
) -> None:
    """Say what a model is: its kind, sizes and weights, what it reads and can do, how it was trained.

    Nothing is loaded; a published file is turned into a model folder once, in a cache.
    """
    from umt_pipeline.registry.loading import find_registered
    from umt_pipeline.serving.describing import describe as described
    from umt_pipeline.serving.sources import find

    found = find_registered(model) if model.startswith("models:/") else find(model, {})
    told = described(found)
    if as_json:
        typer.echo(json.dumps(told.to_json(), indent=2))
        return
    say(told.lines())


@app.command()
def classify(
    videos: Annotated[list[Path], typer.Argument(help="Video files.")],
    model: ModelOption,
    top: Top = 5,
    env: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Print the likeliest labels of videos, as the classifiers of a model see them.

    Exit status 3 if some videos could not be read.

    umt classify clip.mp4 --model data/06_models/classification
    """
    import umt_pipeline as umt

    said = umt.load(model, **_options(model, env)).classify(videos)
    found: list[dict[str, Any]] = []
    for number, path in enumerate(videos):
        if number in said.failures:
            found.append({"video": str(path), "failure": said.failures[number]})
            continue
        tasks = said.best(number, top).items()
        labels = {task: [{"label": label, "probability": share} for label, share in best] for task, best in tasks}
        found.append({"video": str(path), "tasks": labels})
    if as_json:
        typer.echo(json.dumps({"model": model, "videos": found}, indent=2))
    else:
        say(f"{row['video']}  {_labels(row['tasks'])}" for row in found if "tasks" in row)
    _end(row["failure"] for row in found if "failure" in row)


@app.command()
def ask(
    video: Annotated[Path, typer.Argument(help="Video file.")],
    question: Annotated[str, typer.Argument(help="About the video.")],
    model: ModelOption,
    answers: Annotated[
        Path | None,
        typer.Option(help="JSON list to choose from. Default: that of a registered version, or of the project's training."),
    ] = None,
    top: Top = 5,
    env: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Print the likeliest answers to a question about a video.

    umt ask clip.mp4 "what moves to the left?" --model data/06_models/question_answering
    """
    import umt_pipeline as umt

    options = _options(model, env)
    if answers is not None:
        options["answers"] = answers
    said = umt.load(model, **options).ask(video, question)[:top]
    if as_json:
        rows = [{"text": one.text, "probability": one.probability, "log_probability": one.log_probability} for one in said]
        typer.echo(json.dumps({"model": model, "video": str(video), "question": question, "answers": rows}, indent=2))
    else:
        say(f"{one.probability:6.1%}  {one.text}" for one in said)


def _options(model: str, env: str | None) -> Options:
    """Return how a model is asked that a stage of this project made, from its parameters and tables; nothing of others.

    Raises:
        ConfigError: an environment is named whose model it is not.
    """
    from umt_pipeline.project_config import catalog_path, config_loader
    from umt_pipeline.registry.serving_settings import serving_settings
    from umt_pipeline.serving.sources import kind_of_folder

    project = find_kedro_project(Path.cwd())
    kind = kind_of_folder(Path(model)) if Path(model).is_dir() else ""
    if project is not None and kind in ("classification", "question_answering"):
        loader = config_loader(Path(project), env)
        if catalog_path(Path(project), loader, f"{kind}_model").resolve() == Path(model).resolve():
            options: Any = serving_settings(kind, Path(project), loader).model_dump(mode="json")
            found: Options = options
            return found
    if env is not None:
        raise ConfigError(f"--env {env}: {model} is no model that a stage of this corpus made to be asked: leave --env out")
    return {}


def _labels(tasks: dict[str, list[dict[str, Any]]]) -> str:
    shown = {task: [f"{row['label']} {row['probability']:.3f}" for row in best] for task, best in tasks.items()}
    return "; ".join(f"{task}: {', '.join(labels)}" for task, labels in shown.items())


def _end(failures: Iterable[str]) -> None:
    """Name what could not be read, and end with its exit status if there is such."""
    console, failed = Console(stderr=True, soft_wrap=True, highlight=False), list(failures)
    for reason in failed:
        console.print(reason, style="red", markup=False)
    if failed:
        raise typer.Exit(SOME_FAILED)
