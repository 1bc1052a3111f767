"""What a page of an ingestion says, as data: the JSON beside the page, with every number that the page draws."""

from __future__ import annotations

from typing import Any

from umt_pipeline.core.config import Config

_TABLES = ("videos", "captions", "labels", "questions", "boxes")


class RulesInForce(Config):
    """The rules that a corpus was read with, as far as the page says what another value would cost.

    Attributes:
        splits: allowed splits, from the one trained on to the one held out most.
        min_frames: smallest number of frames of a video.
        min_side: smallest width and height in pixels.
        max_rejected_share: larger shares of unusable files end the run.
        on_duplicate_content: ``keep``, ``reject`` or ``error``: files of one split with the same bytes.
        on_content_in_two_splits: ``reject`` or ``error``.
        on_near_duplicates_across_splits: ``report``, ``reject`` or ``error``: files of two splits that look the same.
        on_bad_row: ``reject`` or ``error``: rows that are wrong by themselves, or about a file that is in no table.
    """

    splits: tuple[str, ...]
    min_frames: int
    min_side: int
    max_rejected_share: float
    on_duplicate_content: str
    on_content_in_two_splits: str
    on_near_duplicates_across_splits: str
    on_bad_row: str


# --- rejects ----------------------------------------------------------------------------------------------------------
class RejectedRow(Config):
    """One rejected row.

    Attributes:
        video: path of the file as the table names it; a long one of a file that is not opened is cut.
        row: its number in the raw table, from 0.
        detail: what was expected and what was found.
        shown: whether the file may be opened for a picture: it was refused by a rule, not because decoding failed.
    """

    video: str
    row: int
    detail: str
    shown: bool


class ReasonGroup(Config):
    """The rejected rows of a table that have one reason.

    Attributes:
        table: name of the table.
        reason: the reason.
        rows: how many.
        meaning: what was found.
        remedy: what to do about it.
        examples: some of them.
    """

    table: str
    reason: str
    rows: int
    meaning: str
    remedy: str
    examples: tuple[RejectedRow, ...]


# --- distributions ----------------------------------------------------------------------------------------------------
class Spread(Config):
    """Numbers in short: how many, the smallest, the 5th percentile, median, mean, the 95th percentile, the largest."""

    count: int
    minimum: float
    p5: float
    median: float
    mean: float
    p95: float
    maximum: float


class Distribution(Config):
    """A histogram.

    Attributes:
        name: what was measured, with its unit: ``duration_s``.
        title: the same for people.
        log: whether the bins are equally wide in the logarithm.
        edges: of the bins, one more than ``counts``.
        counts: values in each bin; the last bin holds its upper edge too.
        all: all values in short.
        splits: those of each split.
    """

    name: str
    title: str
    log: bool
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    all: Spread
    splits: dict[str, Spread]


class Kinds(Config):
    """How many files have which value of a column, commonest first.

    Attributes:
        name: the column, or ``size`` for width x height.
        title: the same for people.
        files: (value, count) pairs.
        other_values: values left out.
        other_files: files that have those.
    """

    name: str
    title: str
    files: tuple[tuple[str, int], ...]
    other_values: int
    other_files: int


class LabelTask(Config):
    """How the labels of a task are spread over the splits.

    Attributes:
        task: its name.
        rows: labelled files.
        labels: different labels.
        files: (label, split -> files) pairs, commonest label first.
        other_labels: labels left out.
        other_files: split -> files that have those.
        untrained: labels that occur, but not in the split trained on.
    """

    task: str
    rows: int
    labels: int
    files: tuple[tuple[str, dict[str, int]], ...]
    other_labels: int
    other_files: dict[str, int]
    untrained: int


# --- duplicates -------------------------------------------------------------------------------------------------------
class Group(Config):
    """Files with the same or nearly the same content.

    Attributes:
        files: (path, split) pairs, or the first of them; the split is empty for a file that was not accepted.
        files_in_all: how many there are.
        splits: in which they are listed.
    """

    files: tuple[tuple[str, str], ...]
    files_in_all: int
    splits: tuple[str, ...]


class Groups(Config):
    """All groups of files with the same or nearly the same content.

    Attributes:
        groups: how many.
        files: in all of them.
        across_splits: groups with files in more than one split.
        shown: some groups, those across splits first.
    """

    groups: int
    files: int
    across_splits: int
    shown: tuple[Group, ...]


class LookAlikes(Groups):
    """All groups of files that look the same though their bytes differ.

    Attributes:
        bits: of 192 in which the perceptual hashes of such files may differ.
        compared: files that were compared.
        not_compared: files without a hash, or whose frames are flat.
    """

    bits: int
    compared: int
    not_compared: int


# --- what rules cost --------------------------------------------------------------------------------------------------
class Loss(Config):
    """What would be accepted no more.

    Attributes:
        videos: videos fewer.
        images: images fewer.
        hours: hours of video fewer.
        rows: table -> rows fewer that are about those files.
        left: split -> files that would be left.
    """

    videos: int
    images: int
    hours: float
    rows: dict[str, int]
    left: dict[str, int]


class Refused(Config):
    """What a rule refuses now: files, and table -> rows about them."""

    files: int
    rows: dict[str, int]


class Threshold(Config):
    """A smallest number that is asked of a file, and what larger ones would cost.

    Attributes:
        rule: name of the parameter.
        now: its value.
        refused: what it refuses now.
        steps: what ``now`` (nothing) and larger values would cost beside that.
    """

    rule: str
    now: int
    refused: Refused
    steps: tuple[tuple[int, Loss], ...]


class Option(Config):
    """A value of a parameter that is one of a few words.

    Attributes:
        value: the word.
        ends: whether the run would have ended with it.
        files: files fewer than now; more than now if negative. None if the run ends.
        rows: table -> rows fewer than now. Of rows that would come back, those that were rejected with their files.
    """

    value: str
    ends: bool
    files: int | None
    rows: dict[str, int]


class Choice(Config):
    """A parameter that is one of a few words: its name, its value now, and what each would do."""

    rule: str
    now: str
    options: tuple[Option, ...]


class ShareLimit(Config):
    """The share of unusable files.

    Attributes:
        now: the limit.
        share: what was found.
        files: files that are unusable, repeated content left out.
        listed: files of the table.
        limits: limit -> whether the run would have ended with it.
    """

    now: float
    share: float
    files: int
    listed: int
    limits: tuple[tuple[float, bool], ...]


class RuleCosts(Config):
    """What each rule costs, and what other values would."""

    thresholds: tuple[Threshold, ...]
    choices: tuple[Choice, ...]
    rejected_share: ShareLimit


# --- files to show ----------------------------------------------------------------------------------------------------
class AcceptedFile(Config):
    """An accepted file that is shown: where it belongs, what it is, and its first caption (or none)."""

    path: str
    split: str
    corpus: str
    width: int
    height: int
    num_frames: int
    duration_s: float
    codec: str
    caption: str


class Content(Config):
    """All that the page says.

    Attributes:
        dataset_id: name of the corpus.
        rules: those in force.
        tables: name -> rows in, accepted, rejected, reasons, unused columns, cleaned texts, as in the ingestion's report.
        splits: name -> videos, images, captions, hours; from the report too.
        corpora: name -> the same, and rows in and rejected.
        hours: of all videos.
        media: ``video`` and ``image`` -> accepted files.
        warnings: sentences.
        reasons: the rejects, by table and reason.
        distributions: of what is a number.
        kinds: of what is a word.
        labels: of each task.
        duplicates: files with the same bytes.
        near_duplicates: files that look the same.
        costs: of the rules.
        accepted: some accepted files of each corpus and split.
    """

    dataset_id: str
    rules: RulesInForce
    tables: dict[str, dict[str, Any]]
    splits: dict[str, dict[str, float]]
    corpora: dict[str, dict[str, float]]
    hours: float
    media: dict[str, int]
    warnings: tuple[str, ...]
    reasons: tuple[ReasonGroup, ...]
    distributions: tuple[Distribution, ...]
    kinds: tuple[Kinds, ...]
    labels: tuple[LabelTask, ...]
    duplicates: Groups
    near_duplicates: LookAlikes
    costs: RuleCosts
    accepted: tuple[AcceptedFile, ...]

    def table_names(self) -> list[str]:
        """Return the names of the tables as they are shown: JSON files of this project have their keys sorted."""
        return sorted(self.tables, key=_TABLES.index)
