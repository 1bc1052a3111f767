"""`umt retrain`, `umt reproduce`, `umt track`, `umt register`, `umt promote`: runs, and versions of models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from umt_pipeline.commands.terminal import project_folder, say

app = typer.Typer()


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
        say(preview(project, asked))
        return
    for line in retrain_corpus(project, asked):
        say([line])


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
        say([line])
    fine = not work.missing
    if run:
        comparison = work.run()
        say(list(told(comparison)))
        fine = comparison.is_same
    else:
        say([f"git worktree remove {folder} takes it away again; --run runs the stage there"])
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

    say(track_corpus(project_folder(), name))


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

    say(registered_lines(project_folder(), name, kind or None, dry_run))


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
