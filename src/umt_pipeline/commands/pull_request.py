"""The pull request of a retraining: what it says, and that there is one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from umt_pipeline.commands.shell import Shell
from umt_pipeline.core.files import read_json
from umt_pipeline.dvc_stages import stages_file

# GitHub refuses a longer text: 65,536 characters.
MAX_CHARACTERS = 60_000
_NONE = "none\n"


def changed_stages(shell: Shell, file: Path, base: str) -> list[str]:
    """Return the stages whose entries in the lock are others than in a commit, in the order of the dvc.yaml.

    Args:
        shell: in the project's folder.
        file: the dvc.yaml.
        base: the commit.
    """
    lock = file.with_name("dvc.lock")
    old = shell.try_read("git", "show", f"{base}:{lock.relative_to(shell.folder)}")
    new = lock.read_text(encoding="utf-8") if lock.is_file() else None
    before, now = ((yaml.safe_load(text) or {}).get("stages", {}) if text else {} for text in (old, new))
    order = yaml.safe_load(file.read_text(encoding="utf-8"))["stages"]
    return [stage for stage in order if stage in now and now[stage] != before.get(stage)]


def pull_request_text(shell: Shell, project: Path, corpus: str | None, base: str) -> str:
    """Return what a pull request says, in Markdown: verdicts, headline numbers, parameters, stages.

    Args:
        shell: in the project's folder.
        project: the same folder.
        corpus: name of a corpus; None: the demo.
        base: the commit that is compared with.
    """
    file = stages_file(project, corpus)
    results = file.parent / "results"
    headline = [str(path.relative_to(project)) for path in sorted(results.glob("headline*.json"))]
    stages = changed_stages(shell, file, base)
    parts = [
        f"Retrained from {base[:12]}. Stages whose lock changed: {', '.join(stages) or 'none'}.\n",
        "## Verdict of the gate\n",
        *(list(_verdicts(shell, results, base)) or ["No model was compared.\n"]),
        "## Headline numbers\n",
        _difference(shell, "metrics", base, *headline) if headline else _NONE,
        "## Parameters\n",
        _difference(shell, "params", base),
        "## To have it here\n",
        "`git fetch`, `git switch` to this branch, `dvc pull`. "
        "Merging it takes the lock and the numbers in; the registry has the models already.\n",
    ]
    text = "\n".join(parts)
    if len(text) > MAX_CHARACTERS:
        text = f"{text[:MAX_CHARACTERS]}\n\n… {len(text) - MAX_CHARACTERS:,} more characters were cut off.\n"
    return text


def _difference(shell: Shell, what: str, base: str, *targets: str) -> str:
    # No difference is an empty text for DVC, or a table of no rows.
    command = ["dvc", what, "diff", "--md", base, *(["--targets", *targets] if targets else [])]
    told = shell.read(*command).strip()
    return f"{told}\n" if told.count("\n") > 1 else _NONE


def _verdicts(shell: Shell, results: Path, base: str) -> Iterator[str]:
    for file in sorted(results.glob("promotion_*.json")):
        before = shell.try_read("git", "show", f"{base}:{file.relative_to(shell.folder)}")
        found: Mapping[str, Any] = read_json(file)
        if before is not None and json.loads(before) == found:
            continue  # of an earlier retraining
        kind = file.stem.removeprefix("promotion_")
        yield f"**{kind}: {str(found['verdict']).replace('_', ' ')}.** {found['reason']}\n"
        if metrics := found["metrics"]:
            rows = ["| | champion | challenger | difference | interval | clips |", "| --- | ---: | ---: | ---: | --- | ---: |"]
            rows += [
                f"| {one['name']} | {one['champion']:.1f} | {one['challenger']:.1f} | {one['difference']:+.1f} "
                f"| {one['low']:+.1f} to {one['high']:+.1f} | {one['clips']:,} |"
                for one in metrics
            ]
            yield "\n".join(rows) + "\n"


def open_pull_request(shell: Shell, base: str, branch: str, title: str, text: Path) -> str:
    """Open a pull request, or give the open one another text; return what was done.

    One that somebody has closed stays closed: it was decided. One that was merged is done; what the branch has since is
    another's.

    Args:
        shell: in the project's folder.
        base: branch that it is for.
        branch: that it is of.
        title: of a new one.
        text: file with what it says.
    """
    what = ("--state", "all", "--limit", "1", "--json", "url,state,headRefOid")
    known = json.loads(shell.read("gh", "pr", "list", "--head", branch, *what) or "[]")
    if known and known[0]["state"] == "MERGED" and known[0]["headRefOid"] != shell.read("git", "rev-parse", "HEAD"):
        known = []
    if not known:
        command = ("gh", "pr", "create", "--base", base, "--head", branch, "--title", title, "--body-file", str(text))
        return f"opened {shell.read(*command).strip().splitlines()[-1]}"
    url, state = known[0]["url"], known[0]["state"]
    if state != "OPEN":
        return f"{url} of this retraining is {state.lower()}, and stays so"
    shell.read("gh", "pr", "edit", url, "--title", title, "--body-file", str(text))
    return f"{url} is open, and says now what was found"
