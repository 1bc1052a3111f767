"""Shards of samples become a folder of videos, whole or not at all, and nothing is written anywhere else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from umt_pipeline.core.errors import ConfigError, TableError
from umt_pipeline.core.locking import only_writer
from umt_pipeline.tables import folders, webdataset
from umt_pipeline.tables.folders import read_folder
from umt_pipeline.tables.webdataset import find_shards, unpack_shards

SAMPLES = {"0001.mp4": b"film one", "0001.txt": b"a dog\n", "0002.mp4": b"film two", "0002.json": b'{"caption": "a cat"}'}


def write_shard(path: Path, members: dict[str, bytes] | list[tuple[str, bytes | tarfile.TarInfo]], **options: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:  # type: ignore[arg-type]
        for name, content in members.items() if isinstance(members, dict) else members:
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.name = name
            if isinstance(content, bytes):
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path


def everything(folder: Path) -> dict[str, bytes]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in (".lock", ".shard.json"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_shards_become_a_folder_of_videos(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "00000.tar", SAMPLES)
    write_shard(tmp_path / "in" / "sub" / "train.00001.tar", {"./deep/0001.avi": b"film", "deep/0001.txt": b"a bird"})
    done = unpack_shards(tmp_path / "in", tmp_path / "out")
    assert (done.shards, done.unpacked, done.removed, done.files, done.left_out) == (2, 2, 0, 6, {})
    tables = read_folder(tmp_path / "out")
    assert tables.captions.values.tolist() == [
        ["00000/0001.mp4", "a dog"],
        ["00000/0002.mp4", "a cat"],
        ["sub/train.00001/deep/0001.avi", "a bird"],
    ]
    assert tables.left_out == {}, "our own notes are not counted"


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar(tmp_path: Path, form: int) -> None:
    long = "/".join(["folder ç" * 8] * 3) + "/0001.mp4" if form != tarfile.USTAR_FORMAT else "ç/0001.mp4"
    write_shard(tmp_path / "in" / "a.tar", {long: b"x" * 3000, **SAMPLES}, format=form)
    unpack_shards(tmp_path / "in", tmp_path / "out")
    assert everything(tmp_path / "out" / "a") == {long: b"x" * 3000, **SAMPLES}


def test_a_sample_of_several_videos_shares_what_is_said(tmp_path: Path) -> None:
    members = {"1.txt": b"both", "1.left.mp4": b"l", "1.right.mp4": b"r", "1.right.json": b'{"label": 2}', "1.cls": b"7"}
    write_shard(tmp_path / "in" / "a.tar", members)
    done = unpack_shards(tmp_path / "in", tmp_path / "out")
    assert done.left_out == {folders.OTHER: 1}
    tables = read_folder(tmp_path / "out")
    assert tables.captions.values.tolist() == [["a/1.left.mp4", "both"], ["a/1.right.mp4", "both"]]
    assert tables.labels.values.tolist() == [["a/1.right.mp4", "label", "2"]]


def test_only_what_is_new_is_unpacked(tmp_path: Path) -> None:
    first = write_shard(tmp_path / "in" / "0.tar", SAMPLES)
    second = write_shard(tmp_path / "in" / "1.tar", SAMPLES)
    unpack_shards(tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "out" / "0" / "0001.mp4").stat().st_ino
    assert unpack_shards(tmp_path / "in", tmp_path / "out").unpacked == 0
    write_shard(second, {"0001.mp4": b"another"})
    write_shard(tmp_path / "in" / "2.tar", {"0001.mp4": b"new"})
    done = unpack_shards(tmp_path / "in", tmp_path / "out")
    assert (done.shards, done.unpacked, done.removed) == (3, 2, 0)
    assert (tmp_path / "out" / "0" / "0001.mp4").stat().st_ino == before
    assert everything(tmp_path / "out" / "1") == {"0001.mp4": b"another"}
    first.unlink()
    done = unpack_shards(tmp_path / "in", tmp_path / "out")
    assert (done.shards, done.unpacked, done.removed) == (2, 0, 1)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".lock", "1", "2"]


def test_shards_that_would_lie_in_each_other_are_refused(tmp_path: Path) -> None:
    outer = write_shard(tmp_path / "in" / "a.tar", {"1.mp4": b"old", "b/1.mp4": b"old", "c/1.mp4": b"old"})
    unpack_shards(tmp_path / "in", tmp_path / "out")
    write_shard(tmp_path / "in" / "a" / "b.tar", {"1.mp4": b"new"})
    with pytest.raises(ConfigError, match=r"a/b\.tar: expected a folder for it alone, found that it lies in that of .*/a\.tar"):
        unpack_shards(tmp_path / "in", tmp_path / "out")
    outer.unlink()
    assert unpack_shards(tmp_path / "in", tmp_path / "out").removed == 1
    assert everything(tmp_path / "out") == {"a/b/1.mp4": b"new"}


def test_a_folder_that_holds_a_live_one_is_not_removed(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "a" / "b.tar", {"1.mp4": b"live"})
    unpack_shards(tmp_path / "in", tmp_path / "out")
    for old in ("a", "x", "x/y"):  # as former versions unpacked a.tar, x.tar and x/y.tar
        (tmp_path / "out" / old).mkdir(exist_ok=True)
        (tmp_path / "out" / old / ".shard.json").write_text("{}")
        (tmp_path / "out" / old / "2.mp4").write_bytes(b"old")
    done = unpack_shards(tmp_path / "in", tmp_path / "out")
    assert (done.unpacked, done.removed) == (0, 3)
    assert everything(tmp_path / "out") == {"a/b/1.mp4": b"live"}


def test_of_a_killed_run_nothing_is_left(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "0.tar", SAMPLES)
    half = tmp_path / "out" / ".0.4711.part"
    half.mkdir(parents=True)
    (half / "0001.mp4").write_bytes(b"fil")
    unpack_shards(tmp_path / "in", tmp_path / "out")
    assert not half.exists()
    with only_writer(tmp_path / "out"), pytest.raises(ConfigError, match="another process fills this folder"):
        unpack_shards(tmp_path / "in", tmp_path / "out")


def special(kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


def test_what_is_no_file_is_left_out(tmp_path: Path) -> None:
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    members: list[tuple[str, bytes | tarfile.TarInfo]] = [("folder.mp4", special(tarfile.DIRTYPE))]
    members += [(f"{number}.mp4", special(kind, "/etc/passwd")) for number, kind in enumerate(kinds)]
    # A link to a folder elsewhere, and a file "in" it.
    members += [("out", special(tarfile.SYMTYPE, str(tmp_path / "elsewhere"))), ("out/x.mp4", b"inside")]
    members += [("._0001.mp4", b"."), (".git/x.mp4", b"."), ("two\nlines.mp4", b"."), ("key.pyd", b"{}")]
    write_shard(tmp_path / "in" / "a.tar", members)
    (tmp_path / "elsewhere").mkdir()
    done = unpack_shards(tmp_path / "in", tmp_path / "out")
    assert done.left_out == {webdataset.NO_FILE: 6, folders.HIDDEN: 2, folders.CONTROL: 1, folders.OTHER: 1}
    assert everything(tmp_path / "out" / "a") == {"out/x.mp4": b"inside"}
    assert not any((tmp_path / "elsewhere").iterdir())
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_symlink()]


@pytest.mark.parametrize("name", ["../x.mp4", "a/../../x.txt", "/tmp/x.mp4", "../../.ssh/x.json"])
def test_a_name_that_leads_outside_ends_it(tmp_path: Path, name: str) -> None:
    write_shard(tmp_path / "in" / "a.tar", {**SAMPLES, name: b"harm"})
    with pytest.raises(TableError, match=r"a\.tar, byte \d,\d+: expected names within the archive, found '"):
        unpack_shards(tmp_path / "in", tmp_path / "out")
    assert everything(tmp_path).keys() == {"in/a.tar"}


def test_two_members_of_one_name(tmp_path: Path) -> None:
    write_shard(tmp_path / "in" / "a.tar", [("x.mp4", b"1"), ("./x.mp4", b"2")])
    with pytest.raises(TableError, match=r"expected each name once, found '\./x\.mp4' again"):
        unpack_shards(tmp_path / "in", tmp_path / "out")
    write_shard(tmp_path / "in" / "a.tar", [("x.mp4", b"1"), ("x.mp4/y.mp4", b"2")])
    with pytest.raises(TableError, match=r"expected each name once, found 'x\.mp4/y\.mp4' again"):
        unpack_shards(tmp_path / "in", tmp_path / "out")


@given(share=st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_shard_cut_anywhere_is_named_with_its_byte_and_leaves_nothing(
    tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    whole = write_shard(folder / "in" / "good.tar", SAMPLES).read_bytes()
    content = 8 * 512  # heads and bytes of four members; then come zeros
    bad = folder / "in" / "z.tar"
    bad.write_bytes(whole[: int(share * content)])
    with pytest.raises(TableError, match=r"z\.tar, byte [\d,]+.*(cut short|not a tar file)"):
        unpack_shards(folder / "in", folder / "out")
    assert sorted(path.name for path in (folder / "out").iterdir()) == [".lock", "good"], "what was whole stays"
    bad.write_bytes(whole)
    assert unpack_shards(folder / "in", folder / "out").unpacked == 1


def test_damage_within_a_shard_and_shards_in_a_row(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "in" / "a.tar", SAMPLES)
    whole = path.read_bytes()
    path.write_bytes(whole[:1024] + b"\xff" * 512 + whole[1536:])
    with pytest.raises(TableError, match=r"a\.tar, byte 1,024 of [\d,]+: expected the head of a member"):
        unpack_shards(tmp_path / "in", tmp_path / "out")
    path.write_bytes(whole + whole)
    with pytest.raises(TableError, match="put together with `cat`"):
        unpack_shards(tmp_path / "in", tmp_path / "out")
    path.write_bytes(b"\x1f\x8b" + os.urandom(2000))
    with pytest.raises(TableError, match=r"a\.tar, byte .*not a tar file"):
        unpack_shards(tmp_path / "in", tmp_path / "out")


def test_where_nothing_can_be_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "folder.tar").mkdir(parents=True)
    (tmp_path / "in" / "._a.tar").touch()
    assert find_shards(tmp_path / "in") == []
    with pytest.raises(ConfigError, match=r"expected files ending in \.tar, found none"):
        unpack_shards(tmp_path / "in", tmp_path / "out")
    write_shard(tmp_path / "in" / "a.tar", SAMPLES)
    with pytest.raises(ConfigError, match="expected a folder outside that of the shards"):
        unpack_shards(tmp_path / "in", tmp_path / "in")
    monkeypatch.setattr(webdataset.shutil, "disk_usage", lambda path: SimpleNamespace(free=99))
    with pytest.raises(ConfigError, match=r"expected room for a\.tar, 10,240 bytes; found 99 bytes free"):
        unpack_shards(tmp_path / "in", tmp_path / "out")
