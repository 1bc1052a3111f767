from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.corpus_files import write_media
from tests.project_copies import make_dvc_project


@pytest.fixture
def dvc_project(project: Path) -> Path:
    """The project as a git repository and a DVC project."""
    return make_dvc_project(project)


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """A folder with three videos that nobody could play."""
    return write_media(tmp_path / "my videos")
