"""A folder of videos, looked through: which files there are, what they hold, and the vectors of those that are new.

Every file ends in one of two tables, or with an error: files, each content once, and what is left out, with the reason. What
is found out about a file is kept, by its path, size and time of change, and by its content: a second run looks at new files.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import pandas as pd

from umt_pipeline.core.errors import TableError
from umt_pipeline.core.executor import Needs
from umt_pipeline.core.identity import code_key, fingerprint
from umt_pipeline.core.processes import cores
from umt_pipeline.core.progress import progress
from umt_pipeline.serving.embedder import Embedder
from umt_pipeline.serving.embedding.embed import Video, embed_videos
from umt_pipeline.serving.embedding.scenes import looking
from umt_pipeline.serving.embedding.shelf import Looked, Shelf
from umt_pipeline.serving.embedding.windows import WindowRule
from umt_pipeline.tables.files import read_table
from umt_pipeline.tables.folders import LABEL_TASK, read_folder
from umt_pipeline.video.guarded import ReadLimits, check_files
from umt_pipeline.video.media import Reason, Refusal, VideoInfo, VideoRules
from umt_pipeline.video.probe_cache import DEPENDS_ON_MACHINE, NOT_KEPT, FileState
from umt_pipeline.video.probing import probe_all

logger = logging.getLogger(__name__)

LOOKED_FILE = "looked.sqlite"
SAME_CONTENT = "same_content"
KNOWN_COLUMNS = ("path", "label", "split")
# However short or small: what is asked of a corpus is asked when it is ingested.
_RULES = VideoRules(min_frames=1, min_side=1, depth="header")
# Five days at the usual stride. A header may state any length.
_MOST_WINDOWS = 100_000
_FULL = 0.9
# This machine's processes have all that this one has.
_NEEDS = Needs(shared=(), code=(), packages=())


@dataclass(frozen=True)
class Asked:
    """What is to be looked through, and how.

    Args:
        folder: of videos, searched to any depth.
        rule: how files are cut into windows.
        known: table of what else is known of files: path (absolute), label, split; None where nothing is.
        trust: do not decode whole, in a guarded process, files that nothing but that is done for: those of one window.
        batch_size: windows that are encoded at once.
        workers: processes that check files, and threads that decode; None: one per core.
        limits: for the check of one file.
    """

    folder: Path
    rule: WindowRule = field(default_factory=WindowRule)
    known: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(KNOWN_COLUMNS), dtype=str))
    trust: bool = False
    batch_size: int = 16
    workers: int | None = None
    limits: ReadLimits = field(default_factory=ReadLimits)


@dataclass(frozen=True)
class Gathered:
    """What a folder holds.

    Attributes:
        files: file_id, path, media, label, split, date; each content once, in the order of paths.
        left_out: path, reason, detail: of copies (:data:`SAME_CONTENT`), and of files that cannot be read.
        found: files that the folder has.
        beside: of what else lies there, the number by the reason for which it is not taken, such as images without a caption.
        seconds: that it took.
    """

    files: pd.DataFrame
    left_out: pd.DataFrame
    found: int
    beside: Mapping[str, int]
    seconds: Mapping[str, float]

    @property
    def failed(self) -> pd.DataFrame:
        """The files that cannot be read."""
        return self.left_out[self.left_out["reason"] != SAME_CONTENT]


def read_known(file: Path, folder: Path) -> pd.DataFrame:
    """Read what is known of files, for :class:`Asked`.

    Args:
        file: a table (CSV, TSV, JSON, JSON lines, Parquet) with a column path (or video), and label, split or both.
        folder: that paths are relative to.

    Raises:
        TableError: a column is missing, or a path is there twice with different things said of it.
    """
    table = read_table(file)
    table = table.rename(columns={} if "path" in table else {"video": "path"})
    if "path" not in table or not {"label", "split"} & set(table.columns):
        found = ", ".join(map(str, table.columns)) or "none"
        raise TableError(f"{file}: expected a column path, and label, split or both; found {found}")
    table = table.reindex(columns=list(KNOWN_COLUMNS)).drop_duplicates()
    table["path"] = [str((folder.resolve() / str(path)).absolute()) for path in table["path"]]
    if (twice := table["path"].duplicated()).any():
        raise TableError(
            f"{file}: expected one label and split of each file, found several of {table.loc[twice, 'path'].iloc[0]}"
        )
    return table


def gather(asked: Asked, embedder: Embedder, store: Path, has: Callable[[str], bool], shelf: Shelf) -> Gathered:
    """Look through a folder, and embed what is new.

    Args:
        asked: what, and how.
        embedder: the model.
        store: folder for what is found out about files.
        has: whether the vectors of a file, by the SHA-256 of its bytes, are there already.
        shelf: where new vectors go; those that are on it are not made again.

    Raises:
        ConfigError: the folder is none, cannot be read, or has no video.
        WorkersDoNotStartError: a process that checks files could not be started.
    """
    started = time.perf_counter()
    folder = asked.folder.resolve()
    listed = read_folder(folder, captioned=_named_images(asked.known, folder))
    names = listed.videos["video"].tolist()
    # Before they are opened: what changes from here on shows.
    states = [FileState.of(folder / name) for name in names]
    results = _probed(asked, folder, names, store)
    checked_s = time.perf_counter() - started
    own: dict[str, Video] = {}
    left_out: list[tuple[str, str, str]] = []
    for name, state, result in zip(names, states, results, strict=True):
        path = folder / name
        if isinstance(result, Refusal) or state is None:
            refusal = result if isinstance(result, Refusal) else Refusal(Reason.MISSING_FILE.value, "the file has vanished")
            left_out.append((str(path), refusal.reason, refusal.detail))
        elif (first := own.get(result.sha256)) is not None:
            left_out.append((str(path), SAME_CONTENT, f"its bytes are those of {first.path}"))
        else:
            own[result.sha256] = Video(path, state, result, ())
    new = {file_id: video for file_id, video in own.items() if not has(file_id) and file_id not in shelf}
    cut, failures = _cut(asked, new, store)
    looked_s = time.perf_counter() - started - checked_s
    failures |= embed_videos(embedder, list(cut.values()), shelf, asked.batch_size, asked.workers or cores())
    left_out += [(str(own[file_id].path), refusal.reason, refusal.detail) for file_id, refusal in failures.items()]
    embedded_s = time.perf_counter() - started - checked_s - looked_s
    files = _described(asked, [video for file_id, video in own.items() if file_id not in failures], listed.labels)
    seconds = {"checking": checked_s, "looking": looked_s, "embedding": embedded_s}
    columns = pd.Index(["path", "reason", "detail"])
    table = pd.DataFrame(sorted(left_out), columns=columns, dtype=str)
    return Gathered(files, table, len(names), listed.left_out, seconds)


def _named_images(known: pd.DataFrame, folder: Path) -> frozenset[str]:
    """Return the paths within the folder that somebody names: images of that name are no thumbnails."""
    paths = (Path(path) for path in known["path"])
    return frozenset(str(path.relative_to(folder)) for path in paths if path.is_relative_to(folder))


def _probed(asked: Asked, folder: Path, names: list[str], store: Path) -> list[VideoInfo | Refusal]:
    """Probe files by their headers; those that do not state how many frames there are, by counting."""
    results = list(probe_all(folder, names, _RULES, asked.limits, store, asked.workers))
    untold = [
        number
        for number, result in enumerate(results)
        if isinstance(result, Refusal) and result.reason == Reason.UNKNOWN_LENGTH
    ]
    if untold:
        full = _RULES.model_copy(update={"depth": "full"})
        counted = probe_all(folder, [names[number] for number in untold], full, asked.limits, store, asked.workers)
        for number, result in zip(untold, counted, strict=True):
            results[number] = result
    return results


def _cut(asked: Asked, videos: Mapping[str, Video], store: Path) -> tuple[dict[str, Video], dict[str, Refusal]]:
    """Return videos with their windows, and why others have none."""
    rule = asked.rule
    looked = _looked(asked, {name: video for name, video in videos.items() if _needs_look(asked, video)}, store)
    cut: dict[str, Video] = {}
    failures: dict[str, Refusal] = {}
    for file_id, video in videos.items():
        found = looked.get(file_id, Looked(video.info.duration_s, ()))
        if isinstance(found, Refusal):
            failures[file_id] = found
            continue
        # One window is all of it, whatever its length: then it is read as everywhere else.
        one = rule.is_one_window(video.info.duration_s)
        duration_s, scenes = (video.info.duration_s, ()) if one else found
        if duration_s / rule.stride_s > _MOST_WINDOWS:
            detail = (
                f"expected at most {_MOST_WINDOWS} windows of a file, found {duration_s:.0f} seconds at a stride of "
                f"{rule.stride_s:g}; take a longer stride"
            )
            failures[file_id] = Refusal(Reason.TOO_LARGE.value, detail)
            continue
        cut[file_id] = Video(video.path, video.state, video.info, rule.cut(duration_s, scenes))
    return cut, failures


def _needs_look(asked: Asked, video: Video) -> bool:
    """Whether a video is decoded to its end before it is read: for its scene changes, or because it is not trusted."""
    if video.info.media == "image":
        return False  # it was decoded whole
    info = video.info
    if not asked.trust:
        return True
    # A file may state more seconds than it has frames for.
    full = info.num_frames / info.fps >= _FULL * info.duration_s
    return not asked.rule.is_one_window(info.duration_s) and (asked.rule.looks_for_scenes or not full)


def _looked(asked: Asked, videos: Mapping[str, Video], store: Path) -> Mapping[str, Looked | Refusal]:
    threshold = asked.rule.scene_threshold if asked.rule.looks_for_scenes else None
    key = fingerprint(threshold, code_key("serving.embedding.scenes"), version("av"))
    with Shelf(store / LOOKED_FILE) as known:
        found = dict(known.get_looked(videos, key))
        missing = [file_id for file_id in videos if file_id not in found]
        paths = [videos[file_id].path for file_id in missing]
        with progress("decoding in guarded processes", len(missing), "file") as show:
            show(0)
            for done, (number, result) in enumerate(
                check_files(looking(threshold), paths, asked.limits, asked.workers, _NEEDS, None), start=1
            ):
                found[missing[number]] = result
                if not (isinstance(result, Refusal) and result.reason in DEPENDS_ON_MACHINE | NOT_KEPT):
                    known.put_looked(missing[number], key, result)
                show(done)
    return found


def _described(asked: Asked, videos: Collection[Video], labels: pd.DataFrame) -> pd.DataFrame:
    """Return the table of files; what a table says of one goes before what stands beside it."""
    folder = asked.folder.resolve()
    beside = labels[labels["task"] == LABEL_TASK]
    label_of = {str(folder / name): label for name, label in zip(beside["video"], beside["label"], strict=True)}
    label_of |= _column(asked.known, "label")
    split_of = _column(asked.known, "split")
    if unknown := set(asked.known["path"]) - {str(video.path) for video in videos}:
        logger.warning("%d paths of the table are no files of the index, such as %s", len(unknown), min(unknown))
    paths = [str(video.path) for video in videos]
    table = {
        "file_id": [video.info.sha256 for video in videos],
        "path": paths,
        "media": [video.info.media for video in videos],
        "label": [label_of.get(path) for path in paths],
        "split": [split_of.get(path) for path in paths],
        "date": [_date(video.state) for video in videos],
    }
    return pd.DataFrame({name: pd.Series(column, dtype=object) for name, column in table.items()})


def _column(known: pd.DataFrame, name: str) -> dict[str, str]:
    said = known[known[name].notna() & (known[name].astype(str) != "")]
    return dict(zip(said["path"], said[name].astype(str), strict=True))


def _date(state: FileState) -> str:
    return datetime.fromtimestamp(state.mtime_ns / 1e9, UTC).isoformat(timespec="seconds")
