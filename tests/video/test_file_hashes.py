"""Hashes of files are kept while the files are as they were, whatever kills who writes them down."""

from __future__ import annotations

from pathlib import Path

from umt_pipeline.video.file_hashes import FileHashes
from umt_pipeline.video.probe_cache import FileState

STATE = FileState(9, 10**18 + 1)


def test_a_hash_is_known_while_the_file_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "new" / "hashes.jsonl"
    assert FileHashes(file).get("a.mp4", STATE) is None
    assert not file.exists(), "made when there is something to write"
    with FileHashes(file) as hashes:
        hashes.put("a.mp4", STATE, "1" * 64)
        hashes.put("\udce9.mp4", STATE, "2" * 64)
    again = FileHashes(file)
    assert (again.get("a.mp4", STATE), again.get("\udce9.mp4", STATE)) == ("1" * 64, "2" * 64)
    assert again.get("a.mp4", STATE._replace(size=8)) is None
    assert again.get("a.mp4", None) is None
    assert "a.mp4" in again
    assert "b.mp4" not in again


def test_a_line_that_was_cut_costs_itself(tmp_path: Path) -> None:
    file = tmp_path / "hashes.jsonl"
    with FileHashes(file) as hashes:
        hashes.put("a.mp4", STATE, "1" * 64)
    with file.open("a", encoding="ascii") as lines:
        lines.write('["b.mp4", 9, 10')
    with FileHashes(file) as hashes:
        hashes.put("a.mp4", STATE, "3" * 64)
        hashes.put("c.mp4", STATE, "2" * 64)
    again = FileHashes(file)
    assert [again.get(name, STATE) for name in ("a.mp4", "b.mp4", "c.mp4")] == ["3" * 64, None, "2" * 64]
    again.keep_only(["c.mp4", "d.mp4"])
    assert file.read_text().count("\n") == 1
    assert FileHashes(file).get("c.mp4", STATE) == "2" * 64
