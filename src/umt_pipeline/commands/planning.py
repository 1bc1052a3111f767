"""`umt plan`, `umt spec`: what training would cost, and what other machines need for it."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console

from umt_pipeline.commands.terminal import Environment, project_folder, say
from umt_pipeline.core.errors import ConfigError

app = typer.Typer()


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

    say(lines(stage, write_specs(project_folder(), stage, env, params)))
