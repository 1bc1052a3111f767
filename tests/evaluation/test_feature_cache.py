from __future__ import annotations

import dataclasses
import functools
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation.tiny import make_folders, make_tables
from umt_pipeline.core.errors import VideoError
from umt_pipeline.evaluation import feature_cache, stored_arrays
from umt_pipeline.evaluation.encoders import ClipEncoder
from umt_pipeline.evaluation.feature_cache import (
    FeaturePlan,
    Features,
    encode_group,
    missing_groups,
    plan_features,
    read_features,
    remove_others,
)
from umt_pipeline.evaluation.loading import Models, load_models
from umt_pipeline.evaluation.metrics import EvaluationError
from umt_pipeline.evaluation.stored_arrays import store_arrays
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.evaluation.workers import Workers
from umt_pipeline.evaluation.workplace import Workplace
from umt_pipeline.video.views import ViewConfig

IDS = [str(number) for number in range(7)]
ALL = "untrained", "stage2", "stage2/embedding", "stage2/tokens"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    return make_tables(tmp_path_factory.mktemp("media"), ("train",) * 2)


@pytest.fixture(scope="module")
def load(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Models]:
    return functools.partial(load_models, make_folders(tmp_path_factory.mktemp("models"), tables), 0, "fp32")


@pytest.fixture(scope="module")
def models(load: Callable[[], Models]) -> Models:
    return load()


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards of 2 clips, so that 7 clips make three whole ones and a short one."""
    monkeypatch.setattr(feature_cache, "_SHARD_CLIPS", 2)
    monkeypatch.setattr(feature_cache, "_GROUP_SHARDS", 2)


def noise(video_id: str, view: ViewConfig) -> np.ndarray:
    rng = np.random.default_rng(int(video_id))
    return rng.integers(0, 256, (view.frames, view.size, view.size, 3), dtype=np.uint8)


def chosen(models: Models) -> list[ClipEncoder]:
    return [models.untrained, dataclasses.replace(models.stage2, keep_tokens=True)]


def encode(models: Models, group: Any) -> None:
    encode_group(chosen(models), noise, group)


def plan(root: Path, models: Models, **changed: Any) -> FeaturePlan:
    arguments: dict[str, Any] = {"video_ids": IDS, "encoders": chosen(models), "contents": dict.fromkeys(IDS, "a")}
    return plan_features(root, **(arguments | changed), batch_size=2, threads=1)


def fill(root: Path, models: Models, **changed: Any) -> tuple[Features, int]:
    """Make and read the features; also return the number of clips that were decoded."""
    own = plan(root, models, **changed)
    decoded = []

    def count(video_id: str, view: ViewConfig) -> np.ndarray:
        decoded.append(video_id)
        return noise(video_id, view)

    for group in missing_groups(own, 1):
        encode_group(changed.get("encoders", chosen(models)), count, group)
    return read_features(own), len(decoded)


def same(one: Features, other: Features) -> bool:
    return one.video_ids == other.video_ids and all(
        torch.equal(array.all(), other.arrays[name].all()) for name, array in one.arrays.items()
    )


def test_a_second_run_reads_and_another_model_clip_or_setting_does_not(models: Models, tmp_path: Path) -> None:
    features, decoded = fill(tmp_path, models)
    assert (features.video_ids, decoded, set(features.arrays)) == (tuple(IDS), 7, set(ALL))
    assert [features.arrays[name].dtype for name in ALL] == [torch.float32] * 3 + [torch.float16]
    again, decoded = fill(tmp_path, models)
    assert decoded == 0
    assert same(features, again)
    frame = [models.untrained, dataclasses.replace(models.stage2, keep_tokens=True, pool="frame")]
    other = [models.stage1]
    for changed in ({"encoders": frame}, {"encoders": other}, {"contents": dict.fromkeys(IDS, "b")}, {"video_ids": IDS[:3]}):
        assert fill(tmp_path, models, **changed)[1] == len(changed.get("video_ids", IDS))
    kept = plan(tmp_path, models)
    remove_others(tmp_path, [kept])
    assert sorted(tmp_path.iterdir()) == sorted(kept.folders)
    assert fill(tmp_path, models)[1] == 0


def test_other_weights_or_code_give_another_folder(
    models: Models, load: Callable[[], Models], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = plan(tmp_path, models)
    assert plan(tmp_path, load()).folders == first.folders
    trained = load()
    with torch.no_grad():
        next(trained.stage2.model.parameters()).add_(1)
    changed = plan(tmp_path, trained)
    assert changed.folders[0] == first.folders[0]
    assert changed.folders[1] != first.folders[1]
    monkeypatch.setattr(feature_cache, "_code", lambda: "changed")
    assert not set(plan(tmp_path, models).folders) & set(first.folders)


def test_rows_come_from_any_shard_in_any_order(models: Models, tmp_path: Path) -> None:
    tokens = fill(tmp_path, models)[0].arrays["stage2/tokens"]
    whole = tokens.all()
    assert tokens.shape == whole.shape
    for rows in (np.array([6, 0, 0, 3, 4, 5, 1]), np.array([], dtype=np.int64), slice(1, 5)):
        assert torch.equal(tokens[rows], whole[torch.from_numpy(rows) if isinstance(rows, np.ndarray) else rows])


def test_a_killed_run_loses_the_shard_at_work(models: Models, tmp_path: Path) -> None:
    def killed(video_id: str, view: ViewConfig) -> np.ndarray:
        if video_id == "5":
            raise KeyboardInterrupt
        return noise(video_id, view)

    own = plan(tmp_path, models)
    groups = missing_groups(own, 1)
    assert [list(group.lacking) for group in groups] == [[0, 2], [1, 3]]
    with pytest.raises(KeyboardInterrupt):
        encode_group(chosen(models), killed, groups[0])
    with pytest.raises(EvaluationError, match="shards of features are missing"):
        read_features(own)
    (own.folders[0] / ".00002.safetensors.1.part").write_bytes(b"half")
    features, decoded = fill(tmp_path, models)
    assert decoded == 5  # all but the first shard: clip 5 was at work, in the second of the group
    assert not list(tmp_path.rglob("*.part"))
    assert same(features, fill(tmp_path / "other", models)[0])


@pytest.mark.parametrize("damage", ["short", "changed", "gone", "card"])
def test_a_damaged_shard_is_encoded_again(
    models: Models, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    features, _ = fill(tmp_path, models)
    path = plan(tmp_path, models).folders[1] / "00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    if damage == "gone":
        path.unlink()
    elif damage == "card":
        path.with_suffix(".json").write_text('{"video_ids": ')
    else:
        path.write_bytes(content if damage == "changed" else content[:-100])
    if damage in ("short", "gone"):
        with pytest.raises(EvaluationError, match=r"00001\.safetensors.*'stage2/tokens'.*Run again"):
            features.arrays["stage2/tokens"].all()
    again, decoded = fill(tmp_path, models)
    assert decoded == 2
    assert ("00001.safetensors is damaged or gone" in caplog.text) == (damage != "card")
    assert same(again, fill(tmp_path / "other", models)[0])


def test_a_clip_that_failed_is_tried_again(models: Models, tmp_path: Path) -> None:
    def broken(video_id: str, view: ViewConfig) -> np.ndarray:
        if video_id in ("2", "3", "6"):
            raise VideoError("missing_file", video_id)
        return noise(video_id, view)

    own = plan(tmp_path, models)
    for group in missing_groups(own, 1):
        encode_group(chosen(models), broken, group)
    features = read_features(own)
    assert features.video_ids == ("0", "1", "4", "5")
    assert set(features.failures) == {"2", "3", "6"}
    assert "missing_file" in features.failures["6"]
    whole, decoded = fill(tmp_path, models)
    assert (whole.video_ids, decoded) == (tuple(IDS), 3)
    assert torch.equal(features.arrays["stage2/tokens"].all(), whole.arrays["stage2/tokens"][np.array([0, 1, 4, 5])])


class Divided(Workers[Models]):
    """Divides the work as three processes would, sends it as they get it, and does it here."""

    def __init__(self, models: Models) -> None:
        super().__init__(lambda: models)
        self.shares = self.count = 3

    def map(self, function: Any, items: Any) -> Any:
        self.count, sent = 1, pickle.loads(pickle.dumps(list(items)))
        yield from reversed(list(super().map(function, sent)))
        self.shares, self.count = len(sent), 3


def test_divided_work_gives_the_same_bits(models: Models, tmp_path: Path) -> None:
    """With real processes: tests/pipelines/test_evaluation.py."""
    workers = Divided(models)
    one, _ = fill(tmp_path / "one", models)
    own = plan(tmp_path / "three", models)
    list(workers.map(encode, missing_groups(own, workers.count)))
    assert workers.shares == 3
    three = read_features(own)
    assert same(one, three)
    text, mask, _ = models.stage2.encode_text(["a disc 0 goes left", "star", "disc moving up"] * 25)
    text_g, clip_g = np.tile(np.arange(75), 7), np.repeat(np.arange(7), 75)
    with Workplace(tmp_path, workers).pair_scorer("stage2", text, mask, three.arrays["stage2/tokens"]) as score_pairs:
        scores = score_pairs(text_g, clip_g)
    assert workers.shares == 3
    whole = models.stage2.pair_scorer(text, mask, one.arrays["stage2/tokens"].all())(text_g, clip_g)
    np.testing.assert_array_equal(scores, whole)
    assert scores.shape == (525, 2)


def test_a_full_disk_is_an_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_arrays, "save_file", full)
    with pytest.raises(EvaluationError, match=r"x\.safetensors: cannot write 0\.01 GB .*No space left.*Make room"):
        store_arrays(tmp_path / "x.safetensors", {"a": torch.zeros(2_500_000)})
    assert not list(tmp_path.iterdir())
