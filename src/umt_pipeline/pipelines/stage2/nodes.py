"""Nodes that train the video-text model, and the same model from scratch as a control."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from safetensors.torch import save_file

from umt_pipeline.core.errors import ConfigError
from umt_pipeline.core.files import sha256_file, write_json
from umt_pipeline.core.identity import fingerprint
from umt_pipeline.data.captions import captioned_media
from umt_pipeline.features.manifest import MANIFEST_FILE, read_manifest
from umt_pipeline.features.verify import require_settings, verify_store
from umt_pipeline.models.folders import SKIPPED_FILE, WEIGHTS_FILE, load_config, load_weights, weights_sha256
from umt_pipeline.models.student import KIND as STUDENT_KIND
from umt_pipeline.models.student import StudentConfig
from umt_pipeline.models.text import bert_identity
from umt_pipeline.models.tokenizer import load_tokenizer, save_tokenizer, train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, save_video_text
from umt_pipeline.pipelines.runs import fresh_folder, train, write_table
from umt_pipeline.pipelines.teacher_features.params import TeacherFeaturesParams
from umt_pipeline.training.stage2 import Stage2Config

logger = logging.getLogger(__name__)

TrainedModel = tuple[Path, pd.DataFrame, dict[str, Any]]


@dataclass(frozen=True)
class Stage2Data:
    """What the model and its control are both trained on.

    Attributes:
        config: the model's sizes.
        tokenizer: its folder.
        arguments: of the task factory, all but the student.
        inputs: hashes of what the arguments point to.
        store_manifest_sha256: of the videos' feature store.
        teacher: its identity.
    """

    config: VideoTextConfig
    tokenizer: Path
    arguments: dict[str, Any]
    inputs: list[str]
    store_manifest_sha256: str
    teacher: str


def make_tokenizer(params: Stage2Config, videos: pd.DataFrame, captions: pd.DataFrame, workspace: Path) -> Path:
    """Get the tokenizer: that of ``text.pretrained``, or a WordPiece vocabulary trained on the training captions.

    Returns:
        A folder of tokenizer files, named after its content.

    Raises:
        ConfigError: there is no usable training caption, or ``vocab_size`` is too small for their letters or for the pretrained
            tokenizer.
    """
    if params.text.pretrained is not None:
        tokenizer = load_tokenizer(params.text.pretrained)
        if len(tokenizer) > params.text.vocab_size:
            raise ConfigError(
                f"stage2.text.pretrained {params.text.pretrained!r}: its tokenizer has {len(tokenizer)} words, but "
                f"stage2.text.vocab_size is {params.text.vocab_size}: set it to the vocab_size of the checkpoint's config.json"
            )
        # Whoever uses the model later cuts texts where training did.
        tokenizer.model_max_length = params.text.max_length
    else:
        _, texts = captioned_media(videos, captions, "train", params.corpora, params.clean_captions)
        tokenizer = train_wordpiece(
            texts["caption"].tolist(), params.text.vocab_size, params.text.max_length, clean=params.clean_captions
        )
    key = fingerprint(tokenizer.backend_tokenizer.to_str(), tokenizer.model_max_length)
    folder = workspace / "tokenizers" / key
    save_tokenizer(tokenizer, folder)
    return folder


def gather_data(
    params: Stage2Config,
    features: TeacherFeaturesParams,
    tokenizer: Path,
    stage1_model: Path,
    feature_store: Path,
    image_store: Path,
    teacher: Path,
    captions: pd.DataFrame,
    videos: pd.DataFrame,
    raw_media: Path,
    workspace: Path,
) -> Stage2Data:
    """Check the feature stores, settle the model's sizes and put the tables where training processes can map them.

    Args:
        params: text encoder, objectives, target provider and loop.
        features: what the feature stores are expected to be.
        tokenizer: from :func:`make_tokenizer`.
        stage1_model: the student's model folder; read for its size.
        feature_store: recorded views and targets of the videos.
        image_store: those of the images.
        teacher: the teacher's folder, read online and to verify the stores.
        captions: the clean caption table.
        videos: the clean video table, which holds the images too.
        raw_media: folder of the media, as the teacher.
        workspace: folder for unfinished work.

    Raises:
        ConfigError: the parameters do not fit the feature stores, the tables or the student.
        StoreError: a store is not what the parameters ask for, or not what media and teacher give now.
    """
    samples, texts = captioned_media(videos, captions, "train", params.corpora, params.clean_captions)
    folders = {"video": (feature_store, features), "image": (image_store, features.image_config())}
    for kind in sorted(samples["media"].unique()):
        folder, settings = folders[kind]
        require_settings(folder, settings, teacher)
        if params.targets == "cached":
            own = videos[videos["media"] == kind]
            verify_store(folder, params.verify, teacher, own, raw_media, features.workers)
    student, _ = load_config(stage1_model, STUDENT_KIND)
    store = read_manifest(feature_store)
    words = load_tokenizer(tokenizer)
    # A published BERT may have more embeddings than its tokenizer has words.
    words_known = len(words) if params.text.pretrained is None else params.text.vocab_size
    config = params.model_for(StudentConfig.model_validate(student), store, words_known)
    sample_table, samples_key = write_table(workspace, "samples", samples)
    caption_table, captions_key = write_table(workspace, "captions", texts)
    arguments = {
        "model": config.model_dump(mode="json"),
        "weights": params.weights.model_dump(mode="json"),
        "text_lr_scale": params.text.lr_scale,
        "tokenizer": str(tokenizer),
        "samples": str(sample_table),
        "captions": str(caption_table),
        "max_length": params.text.max_length,
        "corpora": params.corpora,
        "parity": params.parity,
        "masked_epochs": params.masked_epochs,
        "stores": {kind: str(folder) for kind, (folder, _) in folders.items()},
        "targets": params.targets,
        "teacher": str(teacher),
        "media_root": str(raw_media),
    }
    manifests = [sha256_file(folder / MANIFEST_FILE) for folder, _ in folders.values()]
    inputs = [*manifests, samples_key, captions_key]
    if params.text.pretrained is not None:
        inputs.append(bert_identity(params.text.pretrained))
    if params.parity:
        # The contrastive gradient depends on it, so a run cannot go on with another number.
        inputs.append(f"processes: {params.train.nproc}")
        if params.train.nproc == 1:
            logger.warning("stage2.parity with train.nproc 1 changes nothing: the published gradient is exact in one process")
    return Stage2Data(config, tokenizer, arguments, inputs, manifests[0], store.teacher.id)


def pretrain_text(
    params: Stage2Config, seed: int, data: Stage2Data, workspace: Path
) -> tuple[Path, dict[str, Any]]:
    """Train the text tower on the training captions alone, if ``text_pretraining`` says so.

    Returns:
        A folder with the tower's weights, empty without this training; and the summary of the training.
    """
    folder = fresh_folder(workspace, "text_tower")
    if params.text_pretraining is None:
        return folder, {}
    arguments = {
        "text": data.config.text.model_dump(mode="json"),
        "embed_dim": params.embed_dim,
        "objectives": params.text_pretraining.model_dump(mode="json"),
        "clean_captions": params.clean_captions,
        **{name: data.arguments[name] for name in ("tokenizer", "samples", "captions", "max_length")},
    }
    factory = "umt_pipeline.training.text_tower:make_task"
    finished = train("text", factory, arguments, data.inputs, params.text_pretraining.train, seed, workspace)
    tower = {name.removeprefix("tower."): tensor for name, tensor in finished.weights().items()}
    save_file(tower, folder / WEIGHTS_FILE)
    return folder, finished.summary()


def train_video_text(
    params: Stage2Config, seed: int, data: Stage2Data, text_tower: Path, stage1_model: Path, workspace: Path
) -> TrainedModel:
    """Train the video-text model from the stage-1 student.

    Args:
        params: text encoder, objectives, target provider and loop.
        seed: of weights, order, dropout, masks and negatives.
        data: from :func:`gather_data`.
        text_tower: from :func:`pretrain_text`.
        stage1_model: the student's model folder.
        workspace: folder for unfinished work, in which a killed run is found again.

    Returns:
        The model folder, the history of the run, and its summary.

    Raises:
        ConfigError: no training clip has a caption.
        TrainingError: training failed.
    """
    return _train("stage2", stage1_model, params, seed, data, text_tower, workspace)


def train_control(params: Stage2Config, seed: int, data: Stage2Data, text_tower: Path, workspace: Path) -> TrainedModel:
    """Train the same model with the same budget, its video encoder from scratch; see :func:`train_video_text`.

    With ``control: false`` nothing is trained, and the folder says so.
    """
    if not params.control:
        folder = fresh_folder(workspace, "stage2_control_model")
        write_json(folder / SKIPPED_FILE, {"reason": "stage2.control is false"})
        return folder, pd.DataFrame({"step": pd.Series(dtype="int64")}), {}
    return _train("stage2_control", None, params, seed, data, text_tower, workspace)


def summarise(
    text_summary: dict[str, Any], stage2_summary: dict[str, Any], stage2_control_summary: dict[str, Any]
) -> dict[str, Any]:
    """Put the runs' summaries into one metrics file."""
    return {"text": text_summary, "stage2": stage2_summary, "control": stage2_control_summary}


def _train(
    name: str, student: Path | None, params: Stage2Config, seed: int, data: Stage2Data, text_tower: Path, workspace: Path
) -> TrainedModel:
    tower = text_tower if (text_tower / WEIGHTS_FILE).is_file() else None
    arguments = {
        **data.arguments,
        "student": None if student is None else str(student),
        "text_tower": None if tower is None else str(tower),
    }
    student_key, tower_key = ("" if folder is None else weights_sha256(folder) for folder in (student, tower))
    inputs = [*data.inputs, student_key, tower_key]
    finished = train(name, "umt_pipeline.training.stage2:make_task", arguments, inputs, params.train, seed, workspace)
    model = VideoTextModel(data.config)
    weights = {key.removeprefix("model."): tensor for key, tensor in finished.weights().items()}
    load_weights(model, weights, source=str(finished.folder))
    # The last step may have left it outside its bounds, into which reading puts it back.
    _ = model.temperature
    folder = fresh_folder(workspace, f"{name}_model")
    facts = {
        "steps": finished.steps,
        "store_manifest_sha256": data.store_manifest_sha256,
        "seed": seed,
        "teacher": data.teacher,
        "stage1_sha256": student_key,
        "text_tower_sha256": tower_key,
    }
    save_video_text(folder, model, load_tokenizer(data.tokenizer), facts)
    return folder, finished.history, finished.summary()
