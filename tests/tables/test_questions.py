from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.tables.reading import read, rows, splits
from umt_pipeline.core.errors import TableError

MSRVTT_QA = [{"answer": "couch", "category_id": 14, "id": 158581, "question": "what are people on?", "video_id": 6513}]
MSVD_QA = [{"answer": "onion", "id": 0, "question": "what is chopped?", "video_id": 1}]
UMT_QA = [{"video": "video1.mp4", "question": "who?", "question_id": 0, "answer": "man"}]
MC = [{"video": "video6514.mp4", "caption": ["a", "b", "c", "d", "e"], "answer": 4}]


def test_msrvtt_qa_with_a_list_of_answers(tmp_path: Path) -> None:
    found = read(tmp_path, "msrvtt-qa", {"val_qa.json": MSRVTT_QA, "msrvtt_qa_answer_list.json": ["man", "couch"]})
    assert splits(found) == [("video6513.mp4", "validation")]
    assert rows(found.questions) == [("158581", "video6513.mp4", "what are people on?", ["couch"], [], -1)]
    assert found.answers == ("man", "couch")
    assert found.warnings == ("validation/questions: the public data set has 12,278, these files have 1",)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("answer_set.txt", "man\nwoman\n"),
        ("train_ans2label.json", {"woman": 1, "man": 0}),
        ("x_answer_list.json", ["man", "woman"]),
    ],
)
def test_an_answer_that_is_not_in_the_list_is_reported(tmp_path: Path, name: str, content: Any) -> None:
    found = read(tmp_path, "msrvtt-qa", {"val_qa.json": MSRVTT_QA, name: content})
    assert found.answers == ("man", "woman")
    assert found.questions["answers"].tolist() == [["couch"]]
    assert "1 questions have no answer in the list of answers and cannot be answered rightly" in found.warnings[0]
    assert "questions, id 158581" in found.warnings[0]


def test_msvd_qa_with_and_without_the_names_of_clips(tmp_path: Path) -> None:
    found = read(tmp_path, "msvd-qa", {"train_qa.json": MSVD_QA})
    assert splits(found) == [("vid1.avi", "train")]
    found = read(tmp_path, "msvd-qa", {"train_qa.json": MSVD_QA, "youtube_mapping.txt": "-4wsuPCjDBc_5_15 vid1\n"})
    assert splits(found) == [("-4wsuPCjDBc_5_15.avi", "train")]
    with pytest.raises(TableError, match=r"item 0, key 'video_id': expected one of the mapping's 1, found 1"):
        read(tmp_path, "msvd-qa", {"train_qa.json": MSVD_QA, "youtube_mapping.txt": "-4wsuPCjDBc_5_15 vid2\n"})
    with pytest.raises(TableError, match=r"youtube_mapping\.txt, line 1: expected a clip and its name such as vid12"):
        read(tmp_path, "msvd-qa", {"train_qa.json": MSVD_QA, "youtube_mapping.txt": "-4wsuPCjDBc_5_15\n"})


def test_activitynet_qa(tmp_path: Path) -> None:
    asked = [{"video_name": "1QIUV7WYKXg", "question": "is the athlete wearing trousers", "question_id": "v_1QI_3"}]
    answers = [{"answer": "yes", "type": 3, "question_id": "v_1QI_3"}]
    found = read(tmp_path, "activitynet-qa", {"test_q.json": asked, "test_a.json": answers})
    assert rows(found.questions) == [("v_1QI_3", "v_1QIUV7WYKXg.mp4", "is the athlete wearing trousers", ["yes"], [], -1)]
    assert read(tmp_path, "activitynet-qa", {"test_q.json": asked}).questions["answers"].tolist() == [[]]
    with pytest.raises(TableError, match=r"test_q\.json, item 0, key 'question_id': expected an answer to 'v_1QI_3'"):
        read(tmp_path, "activitynet-qa", {"test_q.json": asked, "test_a.json": []})
    with pytest.raises(TableError, match=r"test_a\.json, item 1, key 'question_id': expected each id once"):
        read(tmp_path, "activitynet-qa", {"test_q.json": asked, "test_a.json": answers * 2})


def test_umt_questions_number_each_file_anew(tmp_path: Path) -> None:
    test = [{"video": "video2", "question": "who?", "question_id": 0, "answer": ["man", "man", "boy"]}]
    found = read(tmp_path, "msrvtt-qa-umt", {"msrvtt_qa_train.json": UMT_QA, "msrvtt_qa_test.json": test})
    assert rows(found.questions) == [
        ("train/0", "video1.mp4", "who?", ["man"], [], -1),
        ("test/0", "video2.mp4", "who?", ["man", "man", "boy"], [], -1),
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question_id": None}, "item 1, key 'question_id': expected text, found NoneType null"),
        ({}, "item 1: expected each question id once, found 'train/0' again"),
        ({"question_id": 1, "question": " "}, "item 1: expected a question, found ' '"),
        ({"question_id": 1, "answer": ""}, "item 1: expected answers and options that are not blank, found ''"),
        ({"question_id": 1, "answer": 3}, "item 1, key 'answer': expected text or a list of texts, found int 3"),
        ({"question_id": 1, "video": ["a", "b"]}, "item 1, key 'video': expected text, found list"),
    ],
)
def test_wrong_umt_questions(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(TableError, match=rf"msrvtt_qa_train\.json, {message}"):
        read(tmp_path, "msrvtt-qa-umt", {"msrvtt_qa_train.json": [*UMT_QA, UMT_QA[0] | change]})


def test_wrong_lists_of_answers(tmp_path: Path) -> None:
    for answers, found in ((["a", "a"], "answer 1: .*found 'a'"), (["a", " "], "answer 1: .*found ' '"), (["a", 3], "int 3")):
        with pytest.raises(TableError, match=rf"answer_list\.json, .*{found}"):
            read(tmp_path, "msrvtt-qa-umt", {"msrvtt_qa_train.json": UMT_QA, "msrvtt_qa_answer_list.json": answers})


def test_multiple_choice(tmp_path: Path) -> None:
    found = read(tmp_path, "msrvtt-mc", {"msrvtt_mc_test.json": MC})
    assert rows(found.questions) == [("test/0", "video6514.mp4", "", [], ["a", "b", "c", "d", "e"], 4)]
    for wrong in (5, -1):
        with pytest.raises(TableError, match=rf"item 0: expected the index of one of 5 options, from 0; found {wrong}"):
            read(tmp_path, "msrvtt-mc", {"msrvtt_mc_test.json": [MC[0] | {"answer": wrong}]})
    with pytest.raises(TableError, match=r"item 0, key 'answer': expected a whole number, found str"):
        read(tmp_path, "msrvtt-mc", {"msrvtt_mc_test.json": [MC[0] | {"answer": "a"}]})
