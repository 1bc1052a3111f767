"""What is told in numbers: tables for git, headlines, and what is split off."""

from __future__ import annotations

from umt_pipeline.pipelines.numbers import headline_numbers, numbers_of, numbers_table, put_together, split_off

REPORT = {"steps": 675, "bytes": 221_626_368, "run": "14df98f88407f158", "on": True, "final": {"loss": 0.11430845260620118}}


def test_a_number_is_a_line_and_the_order_is_that_of_the_names() -> None:
    table = numbers_table({**REPORT, "a": None, "groups": [1, 2]})
    assert table.to_dict("list") == {
        "name": ["bytes", "final/loss", "steps"],
        "value": ["221626368", "0.114308", "675"],
    }
    assert table.to_csv(index=False, lineterminator="\n").splitlines()[1] == "bytes,221626368"
    assert list(numbers_table({})) == ["name", "value"], "also where there is none"


def test_the_last_digits_of_a_sum_are_not_told() -> None:
    one, other = (numbers_table({"loss": value}) for value in (0.11430845260620118, 0.11430845260620205))
    assert one.equals(other)


def test_numbers_of_several_reports_have_their_names() -> None:
    assert numbers_of(teacher={"steps": 1}, features={"rows": 2})["name"].tolist() == ["features/rows", "teacher/steps"]
    assert put_together(text={"steps": 1}) == {"text": {"steps": 1}}


def test_a_report_is_split_into_what_it_says_of_the_result_and_of_the_run() -> None:
    assert split_off({"rows": 9, "seconds": 1.5}, ("seconds", "mfu")) == ({"rows": 9}, {"seconds": 1.5})


def test_a_headline_is_a_mean_and_nothing_where_nothing_was_measured() -> None:
    records = [
        {"task": "probe/linear/shape/stage1", "values": {"": 50.0}},
        {"task": "probe/linear/motion/stage1", "values": {"": 25.0001}},
        {"task": "probe/linear/motion/stage2", "values": {"": 99.0}},
        {"task": "retrieval/test/stage2/dual", "values": {"t2v_r1": 100 / 3, "v2t_r1": 1.0}},
        {"task": "retrieval/nowhere", "values": {}, "note": "nothing to search"},
    ]
    wanted = {
        "probe": "probe/linear/*/stage1",
        "r1": "retrieval/test/stage2/dual/t2v_r1",
        "r1_nowhere": "retrieval/nowhere/stage2/dual/t2v_r1",
    }
    assert headline_numbers(records, wanted) == {"probe": 37.5, "r1": 33.333}
    assert headline_numbers([], wanted) == {}
