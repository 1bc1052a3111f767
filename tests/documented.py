"""The commands of the documents: which test runs each of them, and why the others are only parsed.

tests/test_docs_commands.py parses all of them, and holds this list against the documents.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.conftest import ROOT

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "studies" / "claims" / "README.md"])
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# Test -> document -> how the commands begin that it runs. The longest begin counts.
RUN_BY = {
    "tests/commands/test_indexing.py::test_the_commands_of_the_page_run": {"search.md": ("umt index", "umt embed")},
    "tests/commands/test_searching.py::test_the_commands_of_the_page_run": {"search.md": ("umt search", "umt similar")},
    "tests/commands/test_exporting.py::test_the_commands_of_the_page_run": {"export.md": ("umt export",)},
    "tests/test_use.py::test_the_guide_runs_from_top_to_bottom": {"use.md": ("umt",)},
    "tests/test_repeatable_results.py::test_three_experiments_fit_a_terminal_and_change_a_line_each": {
        "experiments.md": ("dvc exp", "umt experiments", "umt status")
    },
    "tests/test_docs_run.py::test_a_corpus_of_ones_own": {
        "README.md": ("umt init", "umt summary", "git", "dvc"),
        "own_videos.md": ("umt", "git", "dvc", "cp"),
        "experiments.md": ("umt retrain mine --dry-run",),
    },
    "tests/test_docs_run.py::test_public_tables_are_read": {"own_videos.md": ("umt tables",)},
    "tests/test_docs_run.py::test_a_published_file_comes_in_and_goes_out": {"checkpoints.md": ("umt",)},
    "tests/test_docs_run.py::test_records_are_compared": {"evaluation.md": ("umt compare",)},
}
# Why commands are parsed only -> document -> how they begin.
PARSED_ONLY = {
    "installs packages from an index": {"README.md": ("make venv",), "own_videos.md": ("make venv",)},
    "changes a shell": {"README.md": ("source",), "own_videos.md": ("source",)},
    "trains for long; tests/test_end_to_end.py runs the same pipelines at the sizes of conf/ci": {
        "README.md": ("make demo", "make tasks"),
        "tasks.md": ("kedro run", "make tasks"),
        "evaluation.md": ("dvc exp run",),
    },
    "listens at a port that another program may have; tests/commands/test_serve.py starts servers at free ones": {
        "README.md": ("make serve", "umt serve"),
        "search.md": ("umt serve",),
    },
    "asks such a server; tests/server/test_app.py sends the same requests": {"search.md": ("curl",)},
    "needs a cluster and the corpora of the paper; tests/commands/test_spec.py trains runs of the sizes of conf/ci elsewhere": {
        "cluster.md": ("umt spec", "sbatch", "torchrun", "kedro run")
    },
    "needs runs that were tracked; tests/commands/test_track.py and test_reproduce.py make some": {
        "experiments.md": ("umt track", "umt reproduce")
    },
    "trains for long; tests/test_closed_loop.py retrains a corpus of the sizes of conf/ci": {
        "experiments.md": ("umt retrain",)
    },
    "needs a registry with a challenger; tests/commands/test_promote.py makes one": {"experiments.md": ("umt promote",)},
    "asks a hub, or fetches a program": {"experiments.md": ("gh", "uvx")},
}


def command_lines(document: Path) -> list[list[str]]:
    """Return the words of each command in the ``sh`` blocks of a document, comments left out."""
    text = "".join(BLOCK.findall(document.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [words for line in text.splitlines() for words in _parts(shlex.split(line, comments=True)) if words]


def name_of(document: Path) -> str:
    """Return what a document is called here."""
    return document.relative_to(ROOT).as_posix().removeprefix("docs/")


def plain(words: Sequence[str]) -> list[str]:
    """Return a command without the folder of its program."""
    return [Path(words[0]).name, *words[1:]]


def fates(document: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Give each command of a document, and what becomes of it: the tests that run it, or reasons; one, if all is in order."""
    begins = [
        (begin, fate)
        for listed in (RUN_BY, PARSED_ONLY)
        for fate, documents in listed.items()
        for begin in documents.get(name_of(document), ())
    ]
    for words in command_lines(document):
        line = f"{' '.join(plain(words))} "
        fitting = [(begin, fate) for begin, fate in begins if line.startswith(f"{begin} ")]
        longest = max((len(begin) for begin, _ in fitting), default=0)
        yield plain(words), [fate for begin, fate in fitting if len(begin) == longest]


def assigned(test: str, document: str) -> list[list[str]]:
    """Return the commands of a document that a test has to run, in order.

    Args:
        test: its name, without its file.
        document: its name.
    """
    (path,) = (path for path in DOCUMENTS if name_of(path) == document)
    found = [words for words, fates_of in fates(path) if any(fate.endswith(f"::{test}") for fate in fates_of)]
    assert found, f"{document} has no command for {test}"
    return found


def _parts(words: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    for word in words:
        if word in ("&&", "|", "&"):
            yield part
            part = []
        else:
            part.append(word)
    yield part
