"""The page of the evaluation, of a fabricated run."""

from __future__ import annotations

import dataclasses
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.reports.pages import EVIL, FRAMES, Html, checked, examples, history, rows_below, text_of
from umt_pipeline.evaluation.evidence import evidence_rows, joined
from umt_pipeline.evaluation.examples import RetrievalExample
from umt_pipeline.evaluation.params import EvaluationParams
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.reports.evaluation.headline import summary
from umt_pipeline.reports.evaluation.opening import at_equal_cost, opening, score_curves
from umt_pipeline.reports.evaluation.page import evaluation_page
from umt_pipeline.reports.evaluation.results import EvaluationResults, Prepared, Trained
from umt_pipeline.reports.figures import mask_picture
from umt_pipeline.reports.ingestion.rows import count_table
from umt_pipeline.reports.page import Example, Page
from umt_pipeline.reports.systems import RETRIEVAL_COLUMNS, cost_table, system_table

SECTIONS = [
    "in-four-pictures", "results", "training", "masks-and-attention", "retrieval-examples", "data", "feature-store", "protocol",
    "run-data-parameters",
]  # fmt: skip
TASKS = ("shape", "colour", "motion")
PROTOCOL = {
    "split": "test", "annotation_sha256": "9f" * 32, "clips": 12, "failures": ["clip3"], "frames": 8, "views": 1,
    "resolution": 64, "settings": {"distinct_texts": 12}, "chosen": {}, "other_queries": False, "model": "stage2",
    "checkpoint_sha256": "ac" * 32, "seed": 0, "version": "0.1.0",
}  # fmt: skip


def fabricated() -> EvaluationResults:
    """Twelve test clips of four shapes, three colours and two motions; a caption for each; an image in training."""
    ids = [f"clip{n}" if n else EVIL for n in range(12)]
    labels = [(video, task, label) for n, video in enumerate(ids)
              for task, label in zip(TASKS, (n % 4, n % 3, n % 2), strict=True)]  # fmt: skip
    rows = [
        {
            "video_id": video, "path": f"{video}.mp4", "split": "test" if video in ids else "train", "media": media,
            "codec": "h264", "width": (64, 96)[n % 2], "height": 64, "fps": (8.0, 25.0)[n % 2], "num_frames": 24 + n,
            "duration_s": 5.0, "size_bytes": 9_000 + 91 * n,
        }
        for n, (video, media) in enumerate([*((video, "video") for video in ids), ("image", "image")])
    ]  # fmt: skip
    captions = pd.DataFrame({"caption_id": range(12), "video_id": ids, "caption": [f"caption {n}" for n in range(12)]})
    return EvaluationResults(
        EvaluationParams(tasks=TASKS),
        Tables(pd.DataFrame(rows), captions, pd.DataFrame(labels, columns=["video_id", "task", "label"]), Path()),
        Prepared(
            rejects=pd.DataFrame(
                [("videos", 4, "truncated.mp4", "corrupt_frame", "21 of 40 frames"), ("captions", 7, EVIL, "orphan", EVIL)],
                columns=["table", "row", "video", "reason", "detail"],
            ),
            ingestion={
                "tables": {"videos": {"rows_in": 13, "accepted": 12, "rejected": 1}},
                "media": {"video": 12, "image": 1234},
                "corpora": {"webvid": dict.fromkeys(("rows_in", "rejected", "videos", "images", "captions", "hours"), 1)},
            },
            features={"rows": 384, "bytes_per_clip_view": {"pixels": 19_968, "targets": 53_248, "total": 73_632}},
            store=Path(),
        ),
        Trained(
            {
                "teacher": history(3),
                "stage1": history(3, tflops=[2.0, 2.0, 1.0]),
                "stage2": history(3, tflops=4.0, validation_r1=[np.nan, 20.0, 40.0]),
                "control": history(3, tflops=4.0, validation_r1=[np.nan, 10.0, 30.0]),
            },
            {"teacher": {"zero_shot": {"shape": 71.9}}, "stage1": {"steps": 180}, "stage2": {"control": {"steps": 3}}},
            {"stage1": {"seconds": 34.4}},
        ),
        [
            *_records(),
            {"task": "probe/knn/weather", "values": {}, "protocol": None, "note": f"no task 'weather' {EVIL}"},
        ],
        [
            RetrievalExample("test", system, query, ids[0], ids[:2], [rank == 1, rank != 1], rank)
            for query, rank in ((EVIL, 2), ("a star", 1)) for system in ("stage2/reranked", "stage2/dual", "teacher/dual")
        ],
        evidence(ids, {"teacher/dual": 2, "control/dual": 3, "stage2/dual": 4, "control/reranked": 4, "stage2/reranked": 6}),
        {"retrieval/test/stage2/reranked": {"pairs": 1800, "seconds": 2.5}},
    )  # fmt: skip


def evidence(ids: list[str], hits: dict[str, int], name: str = "test") -> pd.DataFrame:
    """Return the ranks of a caption for each clip: the first so many are hits of a system, the others second or third."""
    numbers = np.arange(len(ids))
    return joined(
        evidence_rows(f"retrieval/{name}/{system}", "t2v_rank", numbers, ids, np.where(numbers < count, 1, 2 + count % 2))
        for system, count in hits.items()
    )


def _records() -> list[dict[str, Any]]:
    records = []
    levels = {"teacher_cls": 61.0, "teacher_patch": 60.0, "untrained": 23.0, "stage1": 52.0, "stage2": 57.0}
    for kind in ("knn", "linear"):
        records += [
            {"task": f"probe/{kind}/{task}/{encoder}", "values": {"": level / 2 if task == "motion" else level}}
            for task in TASKS for encoder, level in levels.items()
        ]  # fmt: skip
    r1 = {"teacher/dual": 22.0, "control/dual": 24.0, "stage2/dual": 37.0, "stage2/dsl": 51.0, "stage2/reranked": 46.0}
    for system, value in r1.items():
        values = {column: value if "_r" in column else 100 / value for column in RETRIEVAL_COLUMNS}
        records.append({"task": f"retrieval/test/{system}", "values": values})
        records += [{"task": f"agreement/test/{system.replace('/', '_')}/{task}", "values": {"": value}} for task in TASKS]
    return [{"protocol": PROTOCOL, "note": None, **record} for record in records]


def page_of(found: EvaluationResults) -> Page:
    masks = [mask_picture(EVIL, FRAMES, np.ones((2, 16)), np.arange(8))]
    return evaluation_page(found, masks, lambda _: FRAMES)


@cache
def html() -> str:
    return checked(page_of(fabricated()))


def test_every_section_is_there() -> None:
    assert [a["id"] for a in Html(html()).all("section")] == SECTIONS
    assert "missing" not in {a.get("class") for _, a in Html(html()).tags}


def test_three_sentences_open_the_page() -> None:
    said = page_of(fabricated()).summary
    assert len(said) == 3
    assert said[0].replace("\N{NO-BREAK SPACE}", " ") == (
        "Stage 1: text→video R@1 of stage 2 that began from it, against the same training from scratch, has no difference that "
        "can be told on test (25.0 → 33.3 %, +0.0 to +25.0 points)."
    ), "twelve clips tell nothing"
    assert "ordered anew with the matching head, has no difference that can be told on test (33.3 → 50.0" in said[1]
    assert "reads colour and shape with 52.0" in said[2], "appearance alone finds all of this set, so it says nothing of motion"
    assert "The corpus holds 12 accepted clips, 1.0 minutes of video and 1,234 images; 2 rows of the input" in text_of(html())


def test_sentences_claim_what_the_intervals_carry() -> None:
    found = fabricated()
    sets = {"test": (60, 58, 10), "test_rare": (90, 30, 60), "test_motion": (40, 80, 20)}  # stage 2, control, re-ranked
    ids = [f"clip{n}" for n in range(120)]
    tables = [
        evidence(ids, {"stage2/dual": ours, "control/dual": scratch, "stage2/reranked": again, "teacher/dual": 9}, name)
        for name, (ours, scratch, again) in sets.items()
    ]
    params = found.params.model_copy(update={"retrieval_sets": tuple(sets)})
    found = dataclasses.replace(found, params=params, evidence=pd.concat(tables, ignore_index=True))
    found.__dict__["ceiling"] = {"test": {"t2v_r1": 60.0}, "test_motion": {"t2v_r1": 11.1}}
    stage1, reranked, motion = (said.replace("\N{NO-BREAK SPACE}", " ") for said in summary(found))
    assert re.search(
        r"from scratch, is higher on test_rare \(25\.0 → 75\.0 %, \+\d\d\.\d to \+\d\d\.\d points\), is lower on test_motion "
        r"\(66\.7 → 33\.3 %, .*\) and has no difference that can be told on test \(48\.3 → 50\.0 %, ",
        stage1,
    )
    assert "is lower on test (" in reranked
    assert "is higher" not in reranked
    assert motion.startswith("Motion: on test_motion, where whoever knows colour and shape and nothing else finds 11.1 %, ")
    assert re.search(r"single frames, finds 7\.5 % \(\d\.\d to \d\d\.\d\) and stage 2 33\.3 % \(", motion)
    assert motion.endswith("reads motion with 26.0 % after stage 1 and 28.5 % after stage 2 (most frequent label 50.0 %).")


def test_without_a_control_the_page_says_what_was_found() -> None:
    found = fabricated()
    rest = found.evidence[~found.evidence["task"].str.contains("control")]
    said = summary(dataclasses.replace(found, evidence=rest))
    assert said[0].replace("\N{NO-BREAK SPACE}", " ") == (
        "Given a caption, stage 2 puts a right clip first in 37.0 % on test (chance 8.3 %) of the cases."
    )


def test_four_pictures_follow() -> None:
    page = page_of(fabricated())
    kinds = [type(block).__name__ for block in page.sections[0].blocks]
    assert [kind for kind in kinds if kind not in ("Heading", "Text")] == ["Strips", "Example", "Panels", "Panels"]
    text = text_of(html())
    moved = "re-ranking brings the right clip to the first place for 2 and takes it from there for 0."
    assert f"Of the 12 captions of test, {moved}" in text
    assert "test, dual: 25.0 → 33.3" in text
    assert "test, re-ranked: 33.3 → 50.0" in text
    assert "From stage 1: 20 at 13, 40 at 17; From scratch: 10 at 8, 30 at 12; stage 1: up to 5" in html()


def test_the_score_at_equal_cost_is_read_off_the_line() -> None:
    histories = dict(fabricated().trained.histories)
    curves = score_curves(histories)
    assert at_equal_cost(curves) is None, "stage 2 had not been looked at when scratch was at its end"
    histories["control"] = history(3, tflops=5.0, validation_r1=[np.nan, 10.0, 30.0])
    cost, ours, scratch = at_equal_cost(score_curves(histories)) or (0.0, 0.0, 0.0)
    assert (cost, scratch) == (15.0, 30.0)
    assert ours == pytest.approx(30.0), "half way between 13 and 17"
    assert score_curves({**histories, "stage1": history(3)}) == {}, "nobody knows what stage 1 took"


def test_the_picture_of_a_search_is_of_what_re_ranking_does_most() -> None:
    found = fabricated()
    ids = [f"clip{n}" for n in range(12)]
    ranks = {"a": (1, 1), "b": (1, 4), "d": (6, 5), "c": (3, 1)}
    examples = [
        RetrievalExample("test", system, query, ids[0], ids[:2], [True, False], rank)
        for query, both in ranks.items()
        for system, rank in zip(("stage2/dual", "stage2/reranked"), both, strict=True)
    ]
    for better, query in ((6, "c"), (2, "b")):
        hits = evidence(ids, {"stage2/dual": 4, "stage2/reranked": better})
        shown = opening(dataclasses.replace(found, examples=examples, evidence=hits), []).blocks
        assert [block.head for block in shown if isinstance(block, Example)] == [query]


def test_retrieval_is_shown_in_both_directions_with_what_no_model_made() -> None:
    rows = rows_below(html(), "Retrieval on test, the 12 clips: recall in percent, median and mean rank")
    assert [row[0] for row in rows] == [
        "Teacher, dual", "Stage 2 from scratch, dual", "Stage 2, dual", "Stage 2, dual softmax", "Stage 2, re-ranked",
        "Chance", "Perfect on colour and shape, guessing the rest",
    ]  # fmt: skip
    assert rows[2] == ["Stage 2, dual", *["37.0", "37.0", "37.0", "2.7", "2.7"] * 2]
    assert re.findall(r'scope="colgroup" colspan="5">([^<]+)<', html()) == ["Text → video", "Video → text"]
    assert [row[-1] for row in rows_below(html(), "Linear probe: accuracy on test, in percent")] == [
        "30.5", "30.0", "11.5", "26.0", "28.5", "50.0"
    ]  # fmt: skip


def test_scores_that_read_all_queries_are_shown_and_never_best() -> None:
    systems = {f"stage2/{score}": {"t2v_r1": value} for score, value in (("reranked", 46.0), ("dsl", 51.0), ("dual", 37.0))}
    table = system_table("x", systems, ["t2v_r1"], {"Chance": {"t2v_r1": 1.0}})
    assert table is not None
    assert (table.head, table.groups) == (("", "R@1"), (("Text → video", 1),))
    assert [(row.head.text, row.cells[0].text, row.cells[0].style) for row in table.rows] == [
        ("Stage 2, dual", "37.0", ""), ("Stage 2, dual softmax", "51.0", ""), ("Stage 2, re-ranked", "46.0", "best"),
        ("Chance", "1.0", ""),
    ]  # fmt: skip


def test_cost_of_reranking_is_shown() -> None:
    assert rows_below(html(), "What re-ranking costs") == [["Stage 2, re-ranked", "test", "1,800", "2.50", "720"]]
    assert cost_table({}) is None


def test_queries_show_what_each_system_found() -> None:
    shown = examples(page_of(fabricated()), "Retrieval examples")
    assert [(example.head, example.verdict) for example in shown] == [(EVIL, "miss"), ("a star", "hit")]
    assert [said.who for said in shown[0].said] == ["Teacher, dual", "Stage 2, dual", "Stage 2, re-ranked"]
    assert shown[0].said[0].note == "first right answer: rank 2"


def test_counts_that_do_not_add_up_are_shown() -> None:
    table = count_table({"tables": {"videos": {"rows_in": 5, "accepted": 3, "rejected": 1}}})
    assert table is not None
    assert table.rows[0].cells[-1].style == "bad"


def test_nothing_measured_is_said_in_every_section() -> None:
    full = fabricated()
    nothing = Trained({name: history(0) for name in full.trained.histories}, {name: {} for name in full.trained.metrics})
    tables = dataclasses.replace(full.tables, labels=full.tables.labels.iloc[:0])
    prepared = dataclasses.replace(full.prepared, rejects=full.prepared.rejects.iloc[:0], ingestion={}, features={})
    bare = dataclasses.replace(
        full, tables=tables, prepared=prepared, trained=nothing, records=[], examples=[], evidence=joined([])
    )
    text = text_of(checked(evaluation_page(bare, [], lambda _: FRAMES)))
    for sentence in (
        "The probes were not run.", "Retrieval was not run.", "Agreement was not measured.", "nothing was logged",
        "The store has no rows.", "Nothing was searched.", "Stage 2 was not trained from scratch", "Nobody looked at",
        "There are no mask pictures", "There are no examples", "Nothing was rejected.", "There are no records",
    ):  # fmt: skip
        assert sentence in text
