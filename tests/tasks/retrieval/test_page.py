from __future__ import annotations

import dataclasses
import re
from typing import Any

import pandas as pd

from tests.reports.pages import EVIL, FRAMES, checked, examples, history, record, rows_below, text_of
from umt_pipeline.evaluation.examples import RetrievalExample
from umt_pipeline.reports.page import Page
from umt_pipeline.reports.systems import RETRIEVAL_COLUMNS
from umt_pipeline.tasks.retrieval.page import retrieval_page
from umt_pipeline.tasks.task import Shown

EXAMPLES = [
    RetrievalExample("test", f"{model}/reranked", query, "clip0", ["clip1", "clip0"], [False, True], 2)
    for query in (EVIL, "a star") for model in ("fine_tuned", "zero_shot")
]  # fmt: skip
EXAMPLES[2] = dataclasses.replace(EXAMPLES[2], top=["clip0"], relevant=[True], rank=1)


def shown() -> Shown[Any, Any]:
    """Before fine-tuning a fifth is found, after it half; by re-ranking 10 points more, by the dual softmax 20."""
    models: dict[str, dict[str, dict[str, float]]] = {}
    records = []
    for model, r1 in (("fine_tuned", 50.0), ("zero_shot", 20.0)):
        for rank, (score, gain) in enumerate({"dual": 0.0, "dsl": 20.0, "reranked": 10.0}.items()):
            values = {column: r1 + gain if "_r" in column else 4.0 - rank for column in RETRIEVAL_COLUMNS}
            models.setdefault(model, {})[score] = values
            records.append(record(f"retrieval/test/{model}/{score}", ("clip5",), **values))
    note = {"task": "retrieval/nowhere", "values": {}, "protocol": None, "note": "nothing to search"}
    return Shown(
        params=None,
        data=None,
        metrics={"test": {"test": models}},
        records=[*records, note],
        predictions=pd.DataFrame(),
        picture="",
        histories={"fine_tuned": history(3)},
        times={"reranking": {"retrieval/test/fine_tuned/reranked": {"pairs": 1800, "seconds": 2.0}}},
    )


def page_of(shown: Shown[Any, Any]) -> Page:
    return retrieval_page(shown, EXAMPLES, {"test": dict.fromkeys(RETRIEVAL_COLUMNS, 1.0)}, lambda _: FRAMES)


def test_finding_is_compared_before_and_after_and_with_chance() -> None:
    html = checked(page_of(shown()))
    text = text_of(html)
    assert "from the set test, the fine-tuned model puts a right one of 6 clips first in 50.0 % of the cases" in text
    assert "(re-ranked 60.0 %, zero-shot 20.0 %, zero-shot re-ranked 30.0 %, chance 1.0 %)" in text
    assert "retrieval/nowhere: nothing to search." in text
    rows = rows_below(html, "Retrieval on test")
    assert [row[0] for row in rows] == [
        *(f"{model}, {score}" for model in ("Zero-shot", "Fine-tuned") for score in ("dual", "dual softmax", "re-ranked")),
        "Chance",
    ]
    assert rows[3] == ["Fine-tuned, dual", *["50.0", "50.0", "50.0", "4", "4"] * 2]
    best = re.findall(r'<td class="best">([^<]*)</td>', html[html.index("<caption>Retrieval on test") :])
    assert best == ["2", "2"] * 2 + ["60.0", "60.0", "60.0", "2", "2"] * 2, "the dual softmax does not compete"
    assert rows_below(html, "What re-ranking costs")[0] == ["Fine-tuned, re-ranked", "test", "1,800", "2.00", "900"]
    assert rows_below(html, "Clips that could not be read") == [["clip5", "test"]]


def test_queries_show_what_was_found_before_and_after() -> None:
    found = examples(page_of(dataclasses.replace(shown(), histories={"fine_tuned": history(0)})))
    assert [(example.head, example.verdict) for example in found] == [(EVIL, "miss"), ("a star", "hit")]
    assert [(said.who, said.note) for said in found[1].said] == [
        ("Zero-shot, re-ranked", "first right answer: rank 2"), ("Fine-tuned, re-ranked", "first right answer: rank 1")
    ]  # fmt: skip
