"""`umt recipes`: the page is what the recipes say, and they say what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.conftest import ROOT
from tests.published import abouts
from umt_pipeline.commands import main as cli
from umt_pipeline.commands.recipes import PAGE, recipes_page
from umt_pipeline.core.errors import ConfigError

# Top-1 of stage 1 fine-tuned on K400, SSv2 and K710; of K710 on K400, K600 and K700; mean average precision on AVA.
# R@1 on MSRVTT, DiDeMo, ActivityNet, LSMDC and MSVD: text to video, video to text.
SCORES = {
    "umt_b16": "85.7 70.8 81.9 87.4 87.8 78.5 33.5",
    "umt_l16": "89.1 74.7 86.0 90.3 90.4 83.2 39.8",
    "umt_b16_5m": "29.6 26.2 33.4 32.0 28.3 25.9 16.8 12.9 36.2 58.5",
    "umt_b16_17m": "35.5 31.6 41.9 40.3 33.8 31.6 18.1 16.0 41.4 62.5",
    "umt_b16_25m": "35.2 30.3 41.2 40.8 35.5 32.8 19.1 15.7 42.3 61.9",
    "umt_l16_5m": "33.3 30.2 34.0 36.2 31.9 30.0 20.0 16.1 44.4 66.1",
    "umt_l16_17m": "42.6 38.6 46.4 46.5 42.8 40.7 25.2 23.2 49.9 75.4",
    "umt_l16_25m": "40.7 37.1 48.6 49.9 41.9 39.4 24.9 21.9 49.0 74.5",
}
# Learning rate, epochs, warm-up, stochastic depth, in retrieval the length of texts; scores.
SETS = {
    "umt_b16_msrvtt": "MSRVTT 1e-05 10 1 0.2 32 51.0 49.0 DiDeMo 2e-05 12 1 0.1 64 61.6 59.5 "
    "ActivityNet 4e-05 20 1 0.1 150 58.3 56.0 LSMDC 2e-05 10 1 0.2 96 32.7 32.7 MSVD 1e-05 5 0 0.2 64 50.8 73.3 "
    "SSv2-label 5e-05 10 0 0.1 25 64.2 SSv2-template 0.0001 10 1 0.1 25 87.9 MSRVTT-MC 8e-05 3 0 0.2 32 96.3",
    "umt_l16_msrvtt": "MSRVTT 2e-05 7 1 0.3 32 58.8 58.6 DiDeMo 4e-05 5 1 0.2 64 70.4 65.7 "
    "ActivityNet 4e-05 20 1 0.2 150 66.8 64.4 LSMDC 2e-05 8 1 0.2 96 43.0 41.4 MSVD 1e-05 3 0 0.3 64 58.2 82.4 "
    "SSv2-label 4e-05 10 0 0.2 25 73.3 SSv2-template 0.0001 5 1 0.2 25 90.8 MSRVTT-MC 4e-05 5 0 0.3 32 97.3",
    "umt_b16_msrvtt_qa": "MSRVTT-QA 2e-05 8 1 0.2 44.9 MSVD-QA 6e-05 6 1 0.2 49.5 ActivityNet-QA 4e-05 12 1 0.2 44.8",
    "umt_l16_msrvtt_qa": "MSRVTT-QA 4e-05 5 1 0.4 47.1 MSVD-QA 6e-05 6 1 0.4 55.2 ActivityNet-QA 4e-05 10 1 0.3 47.9",
}


def words(values: dict[str, Any]) -> str:
    """Return all values in one line; those of a row follow its name."""
    parts: list[Any] = []
    for name, value in values.items():
        parts += [name, words(value)] if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
    return " ".join(map(str, parts))


def test_scores_and_values_of_other_data_sets_are_the_published_ones() -> None:
    assert {name: words(about.scores) for name, about in abouts().items() if about.scores} == SCORES
    assert {name: words(about.sets) for name, about in abouts().items() if about.sets} == SETS


def test_counts_are_those_of_the_corpora() -> None:
    counts = {name: (about.clips, about.images) for name, about in abouts().items() if about.clips}
    videos, images = {"5m": 2_490_000, "17m": 2_490_000, "25m": 10_730_000}, {"5m": 2_950_000, "17m": 15_920_000}
    images["25m"] = images["17m"]
    expected = {f"umt_{size}_{corpora}": (videos[corpora], images[corpora]) for size in ("b16", "l16") for corpora in videos}
    assert counts == {"umt_b16": (658_340, 0), "umt_l16": (658_340, 0), **expected}


@pytest.mark.slow
def test_the_page_is_what_the_command_writes() -> None:
    assert (ROOT / PAGE).read_text(encoding="utf-8") == recipes_page(ROOT), "run `umt recipes`"


def test_a_recipe_that_says_too_little_is_refused(project: Path) -> None:
    (project / "conf" / "recipes" / "umt_l16.yml").write_text("about: {clip: 3}\n")
    result = CliRunner().invoke(cli.app, ["recipes"])
    with pytest.raises(ConfigError, match=r"umt_l16\.yml: about\.family: Field required(.|\n)*about\.clip: Extra inputs"):
        raise result.exception or AssertionError(result.output)
