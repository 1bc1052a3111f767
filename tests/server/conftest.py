from __future__ import annotations

from pathlib import Path

import pytest

from tests.server.small import Small, make_small


@pytest.fixture
def anyio_backend() -> str:
    """What tests that are coroutines run in."""
    return "asyncio"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Small videos, a tiny model and its index; not to be changed."""
    return make_small(tmp_path_factory.mktemp("small"))


@pytest.fixture
def own(tmp_path: Path) -> Small:
    """The same, to be changed."""
    return make_small(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Folder for what the server keeps."""
    return tmp_path / "cache"
