"""Each command line in the documents is one that its program takes: names, options, values, parameters, targets."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from kedro.framework.project import configure_project, pipelines
from typer.main import get_command

from tests.conftest import ROOT
from tests.test_docs import DOCUMENTS
from umt_pipeline.commands.main import app, cli
from umt_pipeline.core.identity import PACKAGE

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
# Programs of others, which are not all installed where tests run.
FOREIGN = {"curl", "cp", "docker", "gh", "git", "pip", "sbatch", "source", "uv", "uvx"}


def command_lines(document: Path) -> list[list[str]]:
    """Return the words of each command in the ``sh`` blocks of a document, comments left out."""
    text = "".join(BLOCK.findall(document.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [words for line in text.splitlines() for words in _parts(shlex.split(line, comments=True)) if words]


def _parts(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word in ("&&", "|", "&"):
            yield part
            part = []
        else:
            part.append(word)
    yield part


def parse(command: Any, name: str, words: list[str], parent: Any = None) -> Any:
    """Parse a command line as the program does, and run nothing; Typer has its own copy of click's classes."""
    context = command.make_context(name, list(words), parent=parent)
    # `umt tables` alone is a command, too.
    if hasattr(command, "resolve_command") and not (command.invoke_without_command and not context._protected_args):
        found, part, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        return parse(part, str(found), rest, context)
    return context


def check_parameter(assignment: str) -> None:
    """Check FILE:KEY=VALUE against the demo's parameter files, of which a corpus has its own."""
    file, _, rest = assignment.partition(":")
    values = yaml.safe_load((ROOT / re.sub(r"^conf/\w+/", "conf/base/", file)).read_text(encoding="utf-8"))
    for part in rest.partition("=")[0].split("."):
        assert part in values, f"{assignment}: no parameter {part}"
        values = values[part]


def check(words: list[str]) -> None:
    program, arguments = Path(words[0]).name, words[1:]
    if program == "umt":
        parse(get_command(app), "umt", arguments)
        parameters = [value for option, value in pairwise(arguments) if option == "--set"]
    elif program == "kedro":
        configure_project(PACKAGE)
        asked = parse(cli, "kedro", arguments).params
        assert set(asked["pipelines"]) <= set(pipelines)
        parameters = []
    elif program == "dvc":
        get_main_parser().parse_args(arguments)
        parameters = [value for option, value in pairwise(arguments) if option == "-S"]
    elif program == "make":
        targets = set(TARGET.findall((ROOT / "Makefile").read_text(encoding="utf-8")))
        assert {word for word in arguments if "=" not in word} <= targets
        parameters = []
    else:
        assert program in FOREIGN | {"torchrun", "python"}, f"{program}: what is it?"
        assert program != "python" or (ROOT / arguments[0]).is_file(), f"{arguments[0]}: there is no such file"
        parameters = []
    for assignment in parameters:
        check_parameter(assignment)


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if command_lines(path)], ids=lambda path: path.name)
def test_commands_of_a_document_are_understood(document: Path) -> None:
    for words in command_lines(document):
        check(words)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("umt registre mine", "No such command"),
        ("umt register mine --kinds stage2", "No such option"),
        ("make demos", "demos"),
        ("dvc exp runs", "parser error"),
        ("dvc exp run -S conf/base/parameters_stage1.yml:stage1.train.rate=1", "no parameter rate"),
        ("kedro run --pipelines stage7", "stage7"),
        ("python benchmarks/nothing.py", "no such file"),
        ("frobnicate", "what is it"),
    ],
)
def test_a_command_that_is_not_there_is_found(line: str, match: str) -> None:
    with pytest.raises(Exception, match=match):
        check(shlex.split(line))
