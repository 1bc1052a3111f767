"""The commands of `umt`, and a `kedro run` whose errors are short.

Kedro imports this module for every `kedro` command, so torch and mlflow are imported by the commands that need them.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import click
import typer
from kedro.framework.cli.project import run as kedro_run
from kedro.io import DatasetError
from kedro.utils import find_kedro_project
from kedro.validation.exceptions import ParameterValidationError
from rich.console import Console

from umt_pipeline.commands import asking, exporting, indexing, searching, serve
from umt_pipeline.commands import tables as cli_tables
from umt_pipeline.core.errors import ConfigError, UmtError

app = typer.Typer(
    name="umt",
    help="Training of video foundation models after Unmasked Teacher. Pipelines run by `dvc repro` or `kedro run`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(cli_tables.app, name="tables")
for part in (indexing, searching, asking, serve, exporting):
    app.add_typer(part.app)

# Errors whose message says all that a user needs. Anything else is a defect of ours and keeps its traceback.
_USER_ERRORS = (UmtError, DatasetError, ParameterValidationError)


class UserError(click.ClickException):
    """A message for the terminal, and exit status 1."""

    def show(self, file: Any = None) -> None:
        """Print the message to standard error."""
        console = Console(stderr=True, soft_wrap=True, highlight=False)
        console.print(f"\nError: {self.message}", style="red", markup=False)


def _with_short_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except _USER_ERRORS as error:
            if os.environ.get("UMT_TRACEBACK"):
                raise
            raise UserError(f"{error}\n(UMT_TRACEBACK=1 shows where it was raised.)") from error

    return wrapped


# Kedro takes `cli` and `run` of this module in place of its own (its documentation: "add or modify CLI commands").
run = copy.copy(kedro_run)
assert kedro_run.callback is not None
run.callback = _with_short_errors(kedro_run.callback)
cli = click.Group("umt_pipeline", commands={"run": run})


def project_folder() -> Path:
    """Return the project that the current folder is in.

    Raises:
        ConfigError: it is in none.
    """
    project = find_kedro_project(Path.cwd())
    if project is None:
        raise ConfigError(f"{Path.cwd()}: expected a folder of the project, found no Kedro pyproject.toml here or above.")
    return Path(project)


Environment = Annotated[str | None, typer.Option("--env", help="Overlay: the folder conf/ENV that the run used.")]


@app.command()
def summary(env: Environment = None) -> None:
    """Print the metrics of the last evaluation, where the report is, and how to open MLflow."""
    from umt_pipeline.commands.summary import print_summary

    # Without a terminal rich assumes 80 columns, too few for the names of the metrics.
    console = Console() if sys.stdout.isatty() else Console(width=160)
    print_summary(console, project_folder(), env)


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Records of one run: data/07_model_output/*_records.json.")],
    second: Annotated[Path, typer.Argument(help="Records of the other run.")],
    strict: Annotated[bool, typer.Option("--strict", help="Exit status 1 if the protocols differ.")] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Points that numbers may differ by between kinds of machines, unmarked; 6.5 if not given."),
    ] = None,
) -> None:
    """Print the numbers of two evaluations side by side, and warn where they were not measured in the same way."""
    from umt_pipeline.commands.compare import TOLERANCE, print_comparison

    console = Console() if sys.stdout.isatty() else Console(width=160)
    if not print_comparison(console, first, second, TOLERANCE if tolerance is None else tolerance) and strict:
        raise typer.Exit(1)


@app.command()
def experiments(
    corpus: Annotated[str | None, typer.Argument(help="The corpus: the name given to `umt init`. Without: the demo.")] = None,
) -> None:
    """Print the experiments of `dvc exp run` as a table: what was changed in each, and the headline numbers."""
    from umt_pipeline.commands.experiments import print_experiments
    from umt_pipeline.registry.names import own_corpus

    console = Console() if sys.stdout.isatty() else Console(width=160)
    print_experiments(console, project_folder(), own_corpus(corpus))


@app.command()
def recipes() -> None:
    """Write docs/recipes.md: the published recipes with their data, costs, differences and scores."""
    from umt_pipeline.commands.recipes import write_page

    Console().print(str(write_page(project_folder())), soft_wrap=True, highlight=False)


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


def _say(lines: list[str]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for line in lines:
        console.print(line, markup=False)


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
    _say(init_corpus(project_folder(), name, given))


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
    _say(update_corpus(project_folder(), name, _tables(captions, labels, questions, boxes), splits))


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
def retrain(
    name: Annotated[str | None, typer.Argument(help="A corpus. Without it, the demo.")] = None,
    stage: Annotated[str | None, typer.Option(help="Reproduce this stage, with what it needs. Default: all.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Parameter to change first, FILE:key=value. Repeatable.")
    ] = None,
    update_imports: Annotated[
        bool, typer.Option("--update-imports", help="Look whether data imported by DVC has changed where it comes from.")
    ] = False,
    branch: Annotated[str | None, typer.Option(help="Name of the branch. Default: retrain/NAME-<hash of the inputs>.")] = None,
    base: Annotated[str, typer.Option(help="Branch that the pull request is for.")] = "main",
    remote: Annotated[str, typer.Option(help="git's name of the repository that the branch goes to.")] = "origin",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    no_push: Annotated[
        bool, typer.Option("--no-push", help="Keep everything here: data, branch, and no pull request.")
    ] = False,
    no_pull_request: Annotated[
        bool, typer.Option("--no-pull-request", help="Push data and branch, and leave the pull request to you.")
    ] = False,
) -> None:
    """Reproduce what is out of date, and propose it: new models, numbers and the gate's verdict as a pull request.

    Runs dvc repro, dvc push, git commit on a branch, umt register, umt promote and
    gh pr create. What is not touched by a change is not fetched. Killed anywhere, the
    same command goes on. Nothing to do: it says so, with exit status 0. That the gate
    promotes no model is no failure either: the pull request says it.

    umt retrain --set conf/base/parameters_stage1.yml:stage1.train.lr=1e-3
    """
    from umt_pipeline.commands.overrides import Override
    from umt_pipeline.commands.retrain import Asked, preview
    from umt_pipeline.commands.retrain import retrain as retrain_corpus
    from umt_pipeline.registry.names import own_corpus

    asked = Asked(
        corpus=own_corpus(name),
        stage=stage,
        overrides=tuple(Override.parse(text) for text in set_ or ()),
        update_imports=update_imports,
        branch=branch,
        base=base,
        remote=remote,
        push=not no_push,
        pull_request=not no_pull_request,
    )
    project = project_folder()
    if dry_run:
        _say(preview(project, asked))
        return
    for line in retrain_corpus(project, asked):
        _say([line])


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="Id of a run in MLflow.")],
    into: Annotated[
        Path | None,
        typer.Option(help="New folder for the checkout. Default: beside the project, PROJECT-run-ID."),
    ] = None,
    run: Annotated[bool, typer.Option("--run", help="Run the stage again, and compare its numbers with the run's.")] = False,
    remote: Annotated[str, typer.Option(help="git's name of the repository to ask for a commit that is not here.")] = "origin",
) -> None:
    """Check out code, lock and data of an MLflow run into a folder of its own, and say what is missing.

    Exit status 1 if something is missing; with --run if a number is another one.
    """
    from umt_pipeline.commands.reproduce import Reproduction, read_run, told

    project = project_folder().resolve()
    folder = (into or project.with_name(f"{project.name}-run-{run_id[:8]}")).resolve()
    work = Reproduction(project, read_run(project, run_id), folder, remote)
    for line in work.check_out():
        _say([line])
    fine = not work.missing
    if run:
        comparison = work.run()
        _say(list(told(comparison)))
        fine = comparison.is_same
    else:
        _say([f"git worktree remove {folder} takes it away again; --run runs the stage there"])
    if not fine:
        raise typer.Exit(1)


@app.command()
def track(
    name: Annotated[
        str | None, typer.Argument(help="A corpus, or another overlay that runs were made with. Without it, the demo.")
    ] = None,
) -> None:
    """Tell MLflow what it missed: the finished files are read, and runs brought up to date. Nothing is sent twice."""
    from umt_pipeline.commands.track import track_corpus

    _say(track_corpus(project_folder(), name))


@app.command()
def promote(
    name: Annotated[str | None, typer.Argument(help="A corpus. Without it, the demo.")] = None,
    kind: Annotated[
        str, typer.Option(help="teacher, stage1, stage2, classification, retrieval, question_answering or detection.")
    ] = "stage2",
    seeds: Annotated[
        int,
        typer.Option(min=1, help="Trainings to compare, each with another seed: as many times the cost of training, once."),
    ] = 1,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nobody before the alias moves. The gate is never skipped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the verdict as JSON.")] = False,
) -> None:
    """Compare the challenger with the champion, and make it the champion if it is better.

    Both are measured on the same clips in the same way; conf/base/parameters_gate.yml
    says what must rise, and what must not fall. Writes results/promotion_KIND.json and
    a page. Exit status 0: promoted, or the champion already; 3: refused; 4: cannot be
    told; 1: an error, or somebody said no.
    """
    from umt_pipeline.commands.judging import Asked
    from umt_pipeline.commands.promote import run_promotion
    from umt_pipeline.registry.names import own_corpus

    status = run_promotion(Asked(project_folder(), own_corpus(name), kind, seeds), yes, as_json)
    raise typer.Exit(status)


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


@app.command()
def register(
    name: Annotated[str | None, typer.Argument(help="A corpus. Without it, the demo.")] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(help="Kind of model, such as stage2. Repeatable. Default: all that there are."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be registered.")] = False,
) -> None:
    """Put finished models into MLflow's registry, with the numbers they were judged by, as challengers.

    Registered is what dvc.lock says and git has, and nothing is trained or measured.
    Doing it twice makes nothing new.

    umt register mine --kind stage2
    """
    from umt_pipeline.commands.register import registered_lines

    _say(registered_lines(project_folder(), name, kind or None, dry_run))


@app.command()
def plan(
    env: Environment = None,
    clips: Annotated[
        int | None, typer.Option(min=1, help="Number of training clips. Without it, the clean video table is counted.")
    ] = None,
    images: Annotated[
        int, typer.Option(min=0, help="Number of captioned images that stage 2 trains on beside the clips of --clips.")
    ] = 0,
    params: Annotated[str, typer.Option(help="Other parameters, as in `kedro run --params`.")] = "",
    device: Annotated[
        str,
        typer.Option(help="a100, h100, h200, BF16/FP32 (dense peaks in TFLOP/s), or here: measures this machine."),
    ] = "h100",
    rates: Annotated[
        str,
        typer.Option(
            help="Your numbers for what is assumed, as name=value,name=value. Names: mfu, cores, decode_rate, image_rate, "
            "store_rate, media_rate, clip_mb, image_mb."
        ),
    ] = "",
    explain: Annotated[bool, typer.Option(help="Say of every number how it came about.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: every number, unrounded.")] = False,
) -> None:
    """Say what training would cost before anything is spent, with online and with cached targets.

    Prints FLOPs per clip of teacher and student, in stage 2 by objective, the size
    of the feature store, hours of computing, decoding and disks, which of the two
    modes is cheaper, and from how many epochs per recorded view on. An overlay
    with a recipe for one stage alone is planned for that stage. With --clips, neither data nor
    weights are needed. Only teachers with open_clip's own ViT towers can be
    planned: neither timm's models nor those that still lie on a hub.

    umt plan --env umt_b16 --clips 658340 --device h100

    umt plan --env umt_b16_5m --clips 2500000 --images 3000000

    As many devices train as train.nproc says, and extract as teacher_features.nproc
    says, in the precision that the parameters come to on that device, with the
    decoding processes that they name. A phase takes the longest of computing,
    decoding, reading files and moving the store's bytes. FLOPs and bytes are exact.
    Hours rest on rates: a table says which are assumed and why, --rates takes yours.
    decode_rate is what benchmarks/decode_rate.py FOLDER prints; --device here measures
    it on the corpus, and the peaks of the device that is here. A parameter of the
    recipe is tried out as in `kedro run`: --params teacher_features.views=4
    """
    from umt_pipeline.commands.plan import Counts, find_hardware, plan_project
    from umt_pipeline.commands.plan_tables import print_derivations, print_plans
    from umt_pipeline.project_config import config_loader

    if images and clips is None:
        raise ConfigError(f"--images {images} goes with --clips; without both, the clean video table is counted")
    project, counts = project_folder(), None if clips is None else Counts(clips, images)
    loader = config_loader(project, env, params)
    hardware = find_hardware(project, loader, device, rates, videos=counts is None)
    result = plan_project(project, loader, counts, hardware)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
        return
    console = Console() if sys.stdout.isatty() else Console(width=120)
    print_plans(console, result)
    if explain:
        print_derivations(console, result)


@app.command()
def spec(
    stage: Annotated[str, typer.Argument(help="Pipeline that trains, such as stage1, stage2 or classification.")],
    env: Environment = None,
    params: Annotated[str, typer.Option(help="Other parameters, as in `kedro run --params`.")] = "",
) -> None:
    """Write down a stage's training runs for other machines, and start nothing.

    Prints the folder of each run, and the line of torchrun that each machine starts.
    When they are trained, `kedro run` of the stage finds them and only exports their
    models. docs/cluster.md has the whole way, with SLURM and Kubernetes.

    umt spec stage1 --env umt_b16
    """
    from umt_pipeline.commands.spec import lines, write_specs

    _say(lines(stage, write_specs(project_folder(), stage, env, params)))


@app.command()
def doctor() -> None:
    """Print versions, devices and paths: what a report of a problem should contain."""
    import torch

    console = Console(soft_wrap=True, highlight=False)
    packages = "umt_pipeline", "torch", "torchvision", "kedro", "dvc", "mlflow", "pandera", "open_clip_torch", "decord2"
    console.print(f"python {platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
    console.print(", ".join(f"{package} {version(package)}" for package in packages))
    devices = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    console.print(f"CUDA devices: {', '.join(devices) or 'none'}")
    console.print(f"project: {project_folder()}")
    console.print(f"MLflow: {os.environ.get('MLFLOW_TRACKING_URI') or 'sqlite:///mlflow.db (in the project folder)'}")


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


def main() -> None:
    """Run `umt`; errors that a user can act on end in one message."""
    try:
        app()
    except _USER_ERRORS as error:
        UserError(str(error)).show()
        sys.exit(1)


if __name__ == "__main__":
    main()
