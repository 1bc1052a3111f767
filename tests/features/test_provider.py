"""Cached and online targets of the same recorded views are the same."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from tests.features.conftest import MakeStore, World
from tests.features.tiny import make_teacher
from umt_pipeline.core.errors import ConfigError, StoreError, TrainingError
from umt_pipeline.data.mapped import MappedTable, write_mapped
from umt_pipeline.data.samples import stack_samples
from umt_pipeline.features.index import noise_keys
from umt_pipeline.features.provider import CachedTargets, ClipDataset, OnlineTargets, TargetProvider
from umt_pipeline.features.store import FeatureStore
from umt_pipeline.features.targets import TargetBatch
from umt_pipeline.losses import alignment_loss
from umt_pipeline.models.student import StudentConfig, untrained_student
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.video.pixels import normalise_patches

CPU = torch.device("cpu")
# Few distinct tokens and small sub-vectors: the code books fit them well, not perfectly.
PQ = {"codec": {"kind": "pq", "bytes_per_token": 4}, "mask": {"kind": "none"}}


@pytest.fixture
def clips(world: World, tmp_path: Path) -> MappedTable:
    write_mapped(tmp_path / "clips.arrow", world.videos)
    return MappedTable(tmp_path / "clips.arrow")


def get(provider: TargetProvider, indices: list[int], number: int) -> TargetBatch:
    dataset: ClipDataset = pickle.loads(pickle.dumps(provider.dataset()))
    batch = dataset.batch(np.array(indices), np.full(len(indices), number))
    if batch is None:
        batch = stack_samples([dataset[index, number] for index in indices])
    assert batch["clip"] == dataset.clip_ids.take(pa.array(indices)).to_pylist()
    provider.setup(CPU)
    return provider.targets(batch)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({}, 1e-3), ({"codec": "int8"}, 1e-2), ({"pixels": "frames"}, 1e-3), ({"mask": {"kind": "tube"}}, 1e-3), (PQ, 0.3)],
)
def test_cached_and_online_agree(
    world: World, clips: MappedTable, make_store: MakeStore, changes: dict[str, Any], tolerance: float
) -> None:
    store = FeatureStore(make_store(**changes)[0])
    cached = CachedTargets(store)
    online = OnlineTargets(world.teacher, store.manifest, clips, world.media)
    names = ["clip0", "clip1", "clip3", "clip4"]
    assert cached.dataset().clip_ids.to_pylist() == online.dataset().clip_ids.to_pylist() == names
    vision = ViTConfig(image_size=32, patch_size=8, frames=2, dim=24, depth=3, heads=2)
    student = untrained_student(StudentConfig(vision=vision, align_layers=2, target_dim=16), seed=0)
    for epoch in range(3):
        one, other = get(cached, [3, 0, 2], epoch), get(online, [3, 0, 2], epoch)
        assert (one.patches_BVP == other.patches_BVP).all()
        assert (one.visible_BV == other.visible_BV).all()
        torch.testing.assert_close(one.targets_KBVC.float(), other.targets_KBVC, rtol=0, atol=tolerance)
        losses = [
            alignment_loss(student(normalise_patches(batch.patches_BVP), batch.visible_BV), batch.targets_KBVC)
            for batch in (one, other)
        ]
        torch.testing.assert_close(losses[0], losses[1], rtol=tolerance, atol=0)


def test_passes_cycle_through_recorded_views_and_online_views_never_end(
    world: World, clips: MappedTable, make_store: MakeStore
) -> None:
    store = FeatureStore(make_store()[0])
    cached, online = CachedTargets(store), OnlineTargets(world.teacher, store.manifest, clips, world.media)
    for provider, again in ((cached, True), (online, False)):
        first, later = get(provider, [1], 0).patches_BVP, get(provider, [1], 3).patches_BVP
        assert bool((first == later).all()) == again
    assert cached.dataset().rows(np.array([0, 2]), np.array([4, 5])).tolist() == [1, 8]
    assert noise_keys(store.index)[7] == ("clip3", 1)


def test_online_takes_its_configuration_from_a_store_without_rows(
    world: World, clips: MappedTable, make_store: MakeStore
) -> None:
    empty, full = FeatureStore(make_store("empty", views=0)[0]), FeatureStore(make_store("full")[0])
    online = OnlineTargets(world.teacher, empty.manifest, clips, world.media)
    assert (get(online, [0, 1], 1).visible_BV == get(CachedTargets(full), [0, 1], 1).visible_BV).all()
    with pytest.raises(StoreError, match="views: 0 is for online training"):
        CachedTargets(empty)


def test_another_teacher_is_refused(
    world: World, clips: MappedTable, make_store: MakeStore, tmp_path_factory: pytest.TempPathFactory
) -> None:
    manifest = FeatureStore(make_store()[0]).manifest
    other = make_teacher(tmp_path_factory.mktemp("other"), seed=1)
    with pytest.raises(StoreError, match=r"teacher \(weights"):
        OnlineTargets(other, manifest, clips, world.media)


def test_without_alignment_nothing_is_asked_for_but_views_and_masks(
    world: World, clips: MappedTable, make_store: MakeStore
) -> None:
    store = FeatureStore(make_store(mask={"kind": "random"})[0])
    providers = [
        CachedTargets(store, aligned=False),
        OnlineTargets(None, store.manifest, clips, world.media, aligned=False),
        OnlineTargets(world.teacher, store.manifest, clips, world.media),
    ]
    cached, online, aligned = (get(provider, [2, 0], 1) for provider in providers)
    assert (cached.visible_BV == aligned.visible_BV).all()
    assert (online.visible_BV == aligned.visible_BV).all()
    assert cached.targets_KBVC.shape == online.targets_KBVC.shape == (0, *aligned.visible_BV.shape, 0)
    assert providers[1].teacher_macs() == 0
    attended = FeatureStore(make_store("attended")[0]).manifest
    for header, wanted in ((store.manifest, True), (attended, False)):
        with pytest.raises(ConfigError, match="need the teacher, none was given"):
            OnlineTargets(None, header, clips, world.media, aligned=wanted)


def test_a_clip_that_cannot_be_read_is_replaced_whole_and_counted(
    world: World, clips: MappedTable, make_store: MakeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = FeatureStore(make_store()[0]).manifest
    media = tmp_path / "media"
    shutil.copytree(world.media, media)
    (media / "clip1.mp4").write_bytes(b"")
    dataset = OnlineTargets(world.teacher, header, clips, media).dataset()
    replaced, whole = dataset[1, 0], dataset[0, 0]
    assert (replaced["unreadable"], whole["unreadable"]) == (1, 0)
    other = dataset.clip_ids.to_pylist().index(replaced["clip"])
    assert other != 1
    assert (replaced["frames"] == dataset[other, 0]["frames"]).all()
    assert dataset[1, 0]["clip"] == replaced["clip"], "any worker draws the same one"
    assert "clip1.mp4" in caplog.text
    for file in media.glob("*.mp4"):
        file.unlink()
    with pytest.raises(TrainingError, match="corpus 'tiny': 10 media in a row cannot be read"):
        dataset[0, 0]
