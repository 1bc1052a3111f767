"""Each command line in the documents is one that its program takes: names, options, values, parameters, targets.

And each is run by a test, or it is said why not: tests/documented.py.
"""

from __future__ import annotations

import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.cli.parser import get_main_parser
from kedro.framework.project import configure_project, pipelines
from typer.main import get_command

from tests.conftest import ROOT
from tests.documented import DOCUMENTS, PARSED_ONLY, RUN_BY, command_lines, fates, name_of
from umt_pipeline.commands.main import app, cli
from umt_pipeline.core.identity import PACKAGE

TARGET = re.compile(r"^([a-z-]+):", re.MULTILINE)
# Programs of others, which are not all installed where tests run.
FOREIGN = {"curl", "cp", "docker", "gh", "git", "pip", "sbatch", "source", "uv", "uvx"}


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


@pytest.mark.parametrize("document", [path for path in DOCUMENTS if command_lines(path)], ids=lambda path: path.name)
def test_each_command_is_run_by_a_test_or_it_is_said_why_not(document: Path) -> None:
    assert [words for words, fate in fates(document) if len(fate) != 1] == []


def test_what_is_listed_is_there() -> None:
    used = {(name_of(path), fate) for path in DOCUMENTS for _, found in fates(path) for fate in found}
    listed = {(name, fate) for part in (RUN_BY, PARSED_ONLY) for fate, names in part.items() for name in names}
    assert used == listed
    for test in RUN_BY:
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")


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
