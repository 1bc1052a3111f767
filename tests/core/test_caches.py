"""Where caches are."""

from __future__ import annotations

from pathlib import Path

import pytest

from umt_pipeline.core.caches import cache_folder


def test_a_cache_is_where_it_is_told_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UMT_CACHE", str(tmp_path))
    assert cache_folder("imported") == tmp_path / "imported"
    monkeypatch.delenv("UMT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert cache_folder("imported") == tmp_path / "caches" / "umt_pipeline" / "imported"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("imported") == tmp_path / ".cache" / "umt_pipeline" / "imported"
