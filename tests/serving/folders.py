"""Tiny random model folders of every kind that predicts."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from open_clip.model import CLIP

from tests.evaluation.tiny import VISION, make_video_text
from tests.features.tiny import MODEL_CONFIG, make_teacher_folder
from umt_pipeline.evaluation.tables import Tables
from umt_pipeline.models.folders import save_model
from umt_pipeline.models.student import KIND, StudentConfig, untrained_student
from umt_pipeline.models.teacher import save_open_clip
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.tasks.classification.model import Classifier, ClassifierConfig, save_classifier
from umt_pipeline.tasks.detection.model import Detector, DetectorConfig, save_detector
from umt_pipeline.tasks.question_answering.model import QuestionAnsweringModel, save_question_answering

MOTIONS, SHAPES, ANSWERS = ("left", "up"), ("disc", "ring", "star"), ("disc", "a star", "left")


def write_folder(kind: str, folder: Path, tables: Tables, vision: ViTConfig = VISION, seed: int = 0) -> Path:
    """Write a model of a kind.

    Args:
        kind: of the model.
        folder: where; it is not there yet.
        tables: whose captions' words the model's tokenizer knows.
        vision: of classifiers and detectors.
        seed: of the weights.
    """
    if kind == "teacher":
        return make_teacher_folder(folder, seed)
    folder.mkdir(parents=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "stage1":
            student = untrained_student(StudentConfig(vision=VISION, align_layers=1, target_dim=16), seed)
            save_model(folder, student, student.config, KIND)
        elif kind in ("stage2", "retrieval"):
            make_video_text(folder, tables, seed)
        elif kind == "classification":
            for task, classes in (("motion", MOTIONS), ("shape", SHAPES)):
                (folder / task).mkdir()
                classifier = _spread(Classifier(ClassifierConfig(vision=vision, classes=len(classes))))
                save_classifier(folder / task, classifier, classes)
        elif kind == "detection":
            save_detector(folder, _spread(Detector(DetectorConfig(vision=vision, classes=len(MOTIONS)))), MOTIONS)
        elif kind == "question_answering":
            make_video_text(folder, tables, seed)
            model, tokenizer = load_video_text(folder)
            save_question_answering(folder, QuestionAnsweringModel.from_video_text(model)[0], tokenizer)
    return folder


def write_clip(folder: Path, seed: int = 0) -> Path:
    """Write a random CLIP whose text tower reads open_clip's own tokenizer, in open_clip's local layout."""
    folder.mkdir(parents=True)
    config = copy.deepcopy(MODEL_CONFIG)
    config["text_cfg"] = {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        clip = CLIP(**config)
    clip.visual.image_mean = clip.visual.image_std = (0.5, 0.5, 0.5)
    save_open_clip(clip, config, None, folder)
    return folder


def _spread(model: Classifier | Detector) -> Classifier | Detector:
    """Let the head say different things of different clips: first weights of a head are almost zero."""
    torch.nn.init.normal_(model.head.weight, std=2.0)
    return model
