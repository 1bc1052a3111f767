"""Tiny random models in the folders that the pipelines write, and tables for the feature store tests' tiny corpus."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from open_clip.model import CLIP

from tests.features.tiny import MODEL_CONFIG, make_config, make_corpus
from umt_pipeline.core.files import write_json
from umt_pipeline.evaluation.encoders import ClipEncoder, ClipLoader
from umt_pipeline.evaluation.feature_cache import Features, encode_group, missing_groups, plan_features, read_features
from umt_pipeline.evaluation.loading import ModelFolders
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.features.extract import plan_extraction
from umt_pipeline.features.runner import extract
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import KIND, StudentConfig, untrained_student
from umt_pipeline.models.teacher import TeacherConfig, load_teacher, save_open_clip
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, save_video_text
from umt_pipeline.models.vit import ViTConfig

VISION = ViTConfig(image_size=32, patch_size=8, frames=2, dim=16, depth=2, heads=2)
SPLITS = ("train",) * 5 + ("validation",) * 2 + ("test",) * 4 + ("test_motion",) * 3


def make_tables(folder: Path, splits: Sequence[str] = SPLITS) -> Tables:
    """Write one clip per entry of ``splits``; two captions and a shape for each, two motions in turn."""
    videos = make_corpus(folder, splits)
    rows, labels = [], []
    for number, video_id in enumerate(videos["video_id"]):
        shape, motion = ("disc", "star")[number // 2 % 2], ("left", "up")[number % 2]
        rows += [(video_id, f"a {shape} {number} goes {motion}"), (video_id, f"{shape} moving {motion}")]
        labels += [(video_id, "shape", shape), (video_id, "motion", motion)]
    captions = pd.DataFrame(rows, columns=["video_id", "caption"])
    captions.insert(0, "caption_id", range(len(captions)))
    # Images are in the table too, and nobody opens them.
    stills = videos.drop_duplicates("split").assign(media="image")
    stills = stills.assign(video_id="still of " + stills["video_id"], path=stills["path"] + ".jpg")
    for number, video_id in enumerate(stills["video_id"]):
        (folder / stills["path"].iloc[number]).write_bytes(b"no picture")
        captions.loc[len(captions)] = [len(captions), video_id, f"a still disc {number}"]
        labels.append((video_id, "shape", "disc"))
    videos = pd.concat([stills, videos], ignore_index=True)
    return Tables(videos, captions, pd.DataFrame(labels, columns=["video_id", "task", "label"]), folder)


def encode_clips(
    folder: Path, video_ids: Sequence[str], encoders: Sequence[ClipEncoder], load: ClipLoader, *, threads: int = 1, **plan: Any
) -> Features:
    """Return the features of some clips, which lie in ``folder``."""
    own = plan_features(folder, video_ids, encoders, dict.fromkeys(video_ids, ""), threads=threads, **plan)
    for group in missing_groups(own, 1):
        encode_group(encoders, load, group)
    return read_features(own)


def make_folders(folder: Path, tables: Tables, *, control: bool = True) -> ModelFolders:
    """Write random models and a feature store of the training clips."""
    folders = ModelFolders(*(folder / name for name in ("teacher", "store", "stage1", "stage2", "control")))
    for path in (folders.teacher, folders.stage1, folders.stage2, folders.control):
        path.mkdir(parents=True)
    model_config = copy.deepcopy(MODEL_CONFIG)
    # The text tower reads open_clip's own byte-pair tokenizer.
    model_config["text_cfg"] = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        clip = CLIP(**model_config)
    clip.visual.image_mean = clip.visual.image_std = (0.5, 0.5, 0.5)
    save_open_clip(clip, model_config, None, folders.teacher)
    teacher = load_teacher(folders.teacher, TeacherConfig(layers=2), VISION.grid)
    config = make_config(views=1)
    extract(config, teacher, plan_extraction(config, teacher, tables.videos), tables.media_root, folders.feature_store)
    student = untrained_student(StudentConfig(vision=VISION, align_layers=1, target_dim=16), seed=1)
    save_model(folders.stage1, student, student.config, KIND)
    make_video_text(folders.stage2, tables, seed=2)
    if control:
        make_video_text(folders.control, tables, seed=3)
    else:
        write_json(folders.control / "skipped.json", {"reason": "stage2.control is false"})
    return folders


def make_video_text(folder: Path, tables: Tables, seed: int) -> None:
    """Write a random stage-2 model; its tokenizer knows the captions' words."""
    tokenizer = train_wordpiece(tables.captions["caption"], 200)
    text = TextConfig(
        vocab_size=200, dim=16, layers=2, fusion_layer=1, heads=2, mlp_dim=32, max_positions=12, vision_dim=VISION.dim
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VideoTextModel.create(VideoTextConfig(vision=VISION, text=text, embed_dim=8))
    save_video_text(folder, model, tokenizer)
