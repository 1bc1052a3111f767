"""What the documents promise: links that lead somewhere, code that runs, commands that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command

from tests.conftest import ROOT
from tests.documented import DOCUMENTS
from umt_pipeline.commands.main import app

LINK = re.compile(r"\]\((?!https?://|#)([^)#]+)")
BLOCK = re.compile(r"^```python(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PATH = re.compile(r"`((?:src|tests|conf/base|conf/recipes|benchmarks|studies)/[\w./-]+?)`")
COMMAND = re.compile(r"(?:`|bin/)umt ([a-z][a-z-]+)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_is_there(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    assert not [link for link in LINK.findall(text) if not (document.parent / link).exists()]
    assert not [path for path in PATH.findall(text) if not (ROOT / path).exists()]
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(COMMAND.findall(text)) <= commands
    assert not re.findall(r"^[A-Z]+$", text, re.MULTILINE), "a line that was to be replaced"


@pytest.mark.slow
def test_the_code_of_the_guide_runs(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    assert len(blocks) == 8
    for name, code in blocks:
        if name:
            (tmp_path / name).write_text(code, encoding="utf-8")
    (tmp_path / "guide.py").write_text("\n".join(code for name, code in blocks if not name), encoding="utf-8")
    ran = subprocess.run([sys.executable, "guide.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
