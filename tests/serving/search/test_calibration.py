"""The cut-off parts captions that should find something from those that should not, and its error rates are honest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serving.array_index import ArrayIndex, SaidEmbedder, unit
from umt_pipeline.core.errors import IndexingError
from umt_pipeline.serving.embedding.windows import WindowRule
from umt_pipeline.serving.search.calibration import (
    BestScores,
    Cutoff,
    best_scores,
    calibrate,
    cutoff_of,
    error_rates,
    fewest_errors,
    keep_cutoff,
    outdated_cutoff,
)
from umt_pipeline.serving.search.captions import beside

SCORES = st.lists(st.integers(-8, 8).map(lambda number: number / 8), min_size=1, max_size=30)
FILES = 30


@given(present=SCORES, absent=SCORES)
def test_no_other_cut_makes_fewer_errors(present: list[float], absent: list[float]) -> None:
    def errors(cut: float) -> float:
        return float((np.array(present) < cut).mean() + (np.array(absent) >= cut).mean())

    cut = fewest_errors(np.array(present), np.array(absent))
    assert errors(cut) == pytest.approx(min(errors(other) for other in (*np.arange(-1.1, 1.2, 1 / 32),)))


def test_what_can_be_parted_is_parted_in_the_middle() -> None:
    assert fewest_errors(np.array([0.5, 0.8]), np.array([0.1, 0.3])) == pytest.approx(0.4)


def of_scores(present: np.ndarray, absent: np.ndarray) -> BestScores:
    files = np.array([f"{number}" for number in range(len(present))])
    return BestScores(present, files, absent, files[: len(absent)], hidden=True)


def test_the_error_rates_of_scores_that_say_nothing_are_not_flattering() -> None:
    """Chosen and judged by the same 40 captions, a cut-off looks much better than guessing."""
    sums, flattering, refused = [], [], 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        scores = of_scores(rng.normal(size=40), rng.normal(size=40))
        cut = fewest_errors(scores.present_P, scores.absent_A)
        sums.append(sum(error_rates(scores)))
        flattering.append((scores.present_P < cut).mean() + (scores.absent_A >= cut).mean())
        refused += isinstance(calibrate(scores, 1), str)
    assert np.mean(sums) == pytest.approx(1.0, abs=0.05)
    assert np.mean(flattering) < 0.9
    assert refused >= 38


def test_guessing_makes_no_cutoff() -> None:
    found = calibrate(of_scores(np.tile([0.1, 0.2], 20), np.tile([0.1, 0.2], 20)), 1)
    assert isinstance(found, str)
    assert found.startswith("no cut-off: it would find nothing for")
    assert "hardly better than guessing" in found
    assert "calibrate on at least 20 captions of files that are not in the index, too" in found


def test_a_cutoff_of_hardly_any_use_is_none() -> None:
    """It is certain that it is better than guessing, and of no use."""
    present_P, absent_A = np.tile([1.0, 1.0, 0.0], 2000), np.tile([1.0, 1.0, 1.0, 0.0, 0.0], 1200)
    files = np.array([f"{number}" for number in range(6000)])
    assert isinstance(calibrate(BestScores(present_P, files, absent_A, files, hidden=True), 1), str)


def test_many_captions_of_few_files_are_no_more_than_so_many_files() -> None:
    """Three of four files answer above 0.5, as one of four others does: of 400 captions each that would be certain."""
    present_P, absent_A = np.tile([1.0, 1.0, 1.0, 0.0], 100), np.tile([1.0, 0.0, 0.0, 0.0], 100)
    files = np.array([f"{number}" for number in range(400)])
    assert isinstance(calibrate(BestScores(present_P, files, absent_A, files, hidden=False), 1), Cutoff)
    few = np.array([f"{number}" for number in range(10)] * 40)
    assert isinstance(calibrate(BestScores(present_P, few, absent_A, few, hidden=False), 1), str)


def test_few_captions_make_no_cutoff() -> None:
    found = calibrate(of_scores(np.ones(19), np.zeros(19)), 1)
    assert found == "no cut-off: expected at least 20 held-out captions of files in the index, found 19"
    found = calibrate(of_scores(np.ones(20), np.zeros(19)), 1)
    assert found == "no cut-off: expected at least 20 held-out captions of files that are not found there, found 19"


@pytest.fixture
def index(tmp_path: Path) -> ArrayIndex:
    """Files with a direction each; the first two have the same."""
    vectors = np.eye(FILES)[[0, 0, *range(2, FILES)]]
    return ArrayIndex(vectors, [(row, 0.0, 10.0) for row in range(FILES)], folder=tmp_path)


@pytest.fixture
def embedder() -> SaidEmbedder:
    """Caption n is near direction n, and a third as near to the next; what is not there is near nothing."""
    eye = np.eye(FILES)
    texts = {f"thing {row}": (3 * eye[row] + eye[(row + 1) % FILES]).tolist() for row in range(FILES)}
    return SaidEmbedder(texts | {f"other {row}": unit(np.ones(FILES).tolist()) for row in range(FILES)})


def captions(**columns: list[str]) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    return table.reindex(columns=["path", "caption", "split", "start_s", "end_s"]).astype({"split": object})


def test_captions_of_other_files_say_what_finds_nothing(index: ArrayIndex, embedder: SaidEmbedder) -> None:
    table = captions(
        path=[f"/videos/{row}.mp4" for row in range(FILES)] + [f"/elsewhere/{row}.mp4" for row in range(FILES)],
        caption=[f"thing {row}" for row in range(FILES)] + [f"other {row}" for row in range(FILES)],
    )
    scores = best_scores(embedder, index, table)
    assert not scores.hidden
    assert scores.absent_A == pytest.approx(np.full(FILES, FILES**-0.5))
    cutoff = calibrate(scores, len(index.windows))
    assert isinstance(cutoff, Cutoff)
    # Nothing is nearer to "thing 1" than what stands for "thing 2": file 1 looks like file 0.
    assert scores.present_P[1] == pytest.approx(10**-0.5)
    assert (cutoff.present, cutoff.absent) == (FILES, FILES)
    assert FILES**-0.5 < cutoff.score < 10**-0.5
    # Files that do not have caption 1 choose a cut-off above what it finds.
    assert (cutoff.missed, cutoff.invented) == (1 / FILES, 0.0)
    assert cutoff.sentence.startswith("cut-off 0.249: nothing is found for 3.3% of 30 captions of files in the index")


def test_without_others_a_caption_is_asked_while_its_files_are_hidden(index: ArrayIndex, embedder: SaidEmbedder) -> None:
    """Its own, and those that have the same caption."""
    names = ["thing 0", "Thing 0!", *(f"thing {row}" for row in range(2, FILES))]
    embedder.vector_of["Thing 0!"] = embedder.vector_of["thing 0"]  # type: ignore[attr-defined]
    table = captions(path=[f"/videos/{row}.mp4" for row in range(FILES)], caption=names)
    scores = best_scores(embedder, index, table)
    assert scores.hidden
    assert scores.present_P[:2] == pytest.approx([3 * 10**-0.5] * 2)
    assert scores.absent_A[:2] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert scores.absent_A[2:-1] == pytest.approx(np.full(FILES - 3, 10**-0.5))


def test_a_caption_of_all_files_has_nothing_left_to_find(embedder: SaidEmbedder) -> None:
    index = ArrayIndex(np.eye(FILES)[:3], [(0, 0.0, 10.0), (1, 0.0, 10.0), (1, 5.0, 15.0)])
    table = captions(path=["/videos/0.mp4", "/videos/1.mp4"], caption=["thing 0", "thing 0"])
    scores = best_scores(embedder, index, table)
    assert len(scores.present_P) == 2
    assert len(scores.absent_A) == 0


def test_captions_that_a_model_was_trained_on_do_not_count(index: ArrayIndex, embedder: SaidEmbedder) -> None:
    paths, names = [f"/videos/{row}.mp4" for row in range(FILES)], [f"thing {row}" for row in range(FILES)]
    table = captions(path=paths, caption=names, split=["train"] * 11 + ["test"] * (FILES - 11))
    found = calibrate(best_scores(embedder, index, table), len(index.windows))
    assert found == "no cut-off: expected at least 20 held-out captions of files in the index, found 19"


def test_files_that_a_model_was_trained_on_are_right_answers_too(index: ArrayIndex) -> None:
    paths = ["/videos/0.mp4", "/videos/1.mp4", "/elsewhere/0.mp4", "/elsewhere/1.mp4"]
    table = captions(path=paths, caption=["thing", "Thing!", "thing", "other"], split=["train", "test", "test", "test"])
    found = beside(index, table)
    assert found.present["path"].tolist() == ["/videos/1.mp4"]
    assert found.right[0].tolist() == [0, 1], "else file 0 would be an error of the search"
    assert found.absent["caption"].tolist() == ["other"], "what a file of the index is called should be found"


def test_a_cutoff_is_kept_beside_its_index_for_its_model(index: ArrayIndex) -> None:
    cutoff = Cutoff(score=0.2, missed=0.1, invented=0.3, present=40, absent=50, hidden=False, windows=30)
    assert cutoff_of(index) is None
    path = keep_cutoff(index, cutoff)
    assert cutoff_of(index) == cutoff
    assert cutoff_of(ArrayIndex(index.vectors_NE, [(0, 0.0, 1.0)] * FILES, folder=index.folder, key="cd" * 32)) is None
    rule = WindowRule(length_s=4.0, stride_s=2.0, snap_s=0.0)
    others = ArrayIndex(index.vectors_NE, [(0, 0.0, 1.0)] * FILES, folder=index.folder, rule=rule)
    assert cutoff_of(others) is None
    assert "other windows than those of this index (4 s long, one each 2 s)" in (outdated_cutoff(others) or "")
    assert outdated_cutoff(index) is None
    keep_cutoff(others, "no cut-off: expected at least 20")
    assert outdated_cutoff(others) is None, "that was calibrated, to no avail"
    assert cutoff_of(index) is None
    path.write_text("{}")
    with pytest.raises(IndexingError, match=r"(?s)cutoff-abab.*expected a cut-off, found.*calibrate again"):
        cutoff_of(index)
