"""What a model can be loaded from, and what of it is in the files: its kind, its folder, how it is asked.

A published file and a published CLIP become a model folder once, in a cache.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, TypedDict

from umt_pipeline.core.caches import cache_folder
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.core.files import read_json, read_text_list, sha256_file, staged_folder, write_json
from umt_pipeline.core.identity import code_key
from umt_pipeline.exchange.convert import SAFETENSORS_SUFFIX, TORCH_SUFFIXES, import_checkpoint
from umt_pipeline.exchange.kinds import published_kind
from umt_pipeline.exchange.sizes import PUBLISHED_FRAMES, PUBLISHED_IMAGE_SIZE, Asked
from umt_pipeline.models import encoder, student, video_text
from umt_pipeline.models.containers import read_checkpoint
from umt_pipeline.models.folders import CLASSES_FILE, CONFIG_FILE, SKIPPED_FILE, load_config, model_kind
from umt_pipeline.models.teacher import CLIP_CONFIG_FILE, TIMM_WEIGHTS_FILE, TeacherConfig
from umt_pipeline.models.tokenizer import load_tokenizer
from umt_pipeline.models.vit import ViTConfig
from umt_pipeline.serving.settings import ClassificationSettings, QuestionSettings, TeacherSettings
from umt_pipeline.tasks.classification import model as classifier
from umt_pipeline.tasks.detection import model as detector
from umt_pipeline.tasks.question_answering import model as question_answering
from umt_pipeline.tasks.question_answering.training import QuestionAnsweringRecipe
from umt_pipeline.video.action_views import ClipConfig
from umt_pipeline.video.views import ViewConfig

OPEN_CLIP = "open_clip"
# The tokenizer of every published stage-2 file.
TOKENIZER = "bert-base-uncased"

# `kind` of a folder's config.json -> what the project calls such models.
KIND_OF = {
    student.KIND: "stage1",
    encoder.KIND: "encoder",
    video_text.KIND: "stage2",
    classifier.KIND: "classification",
    question_answering.KIND: "question_answering",
    detector.KIND: "detection",
}


class Options(TypedDict, total=False):
    """What a model's files do not say. Each is for some kinds only, and refused for the others.

    Attributes:
        frames: of a clip, for a CLIP, a teacher (8 if not given) or a published file (its kind's if not given).
        image_size: of a published file: side of a frame in pixels; 224 if not given.
        answers: of a question-answering model: the list to choose from, or a JSON file with it.
        max_question_length: of a question-answering model, in tokens; 25 if not given.
        clip: of classifiers: keys of :class:`umt_pipeline.video.action_views.ClipConfig`, such as ``sampling``.
        test: keys of :class:`umt_pipeline.tasks.classification.testing.MultiViewTest`, such as ``clips`` and ``crops``; of a
            question-answering model those of :class:`umt_pipeline.tasks.question_answering.testing.QuestionTest`.
        classes: of a published classifier: its labels in the order of its head, or a JSON file with them.
        tokenizer: of a published stage-2 or question-answering file: folder or hub name; ``bert-base-uncased`` if not given.
    """

    frames: int
    image_size: int
    answers: Sequence[str] | str | Path
    max_question_length: int
    clip: Mapping[str, Any]
    test: Mapping[str, Any]
    classes: Sequence[str] | str | Path
    tokenizer: str | Path


_OPTIONS_OF = {
    OPEN_CLIP: {"frames"},
    "teacher": {"frames"},
    "classification": {"clip", "test"},
    "question_answering": {"answers", "max_question_length", "test"},
}
_OPTIONS_OF_FILE = {"frames", "image_size", "classes", "tokenizer"}


@dataclass(frozen=True)
class Found:
    """A model's files.

    Attributes:
        kind: what it is. A folder does not tell ``retrieval`` from ``stage2``: only the registry does.
        folder: with its files.
        source: what was asked for.
        settings: how it is asked, as JSON values; None: to be had from the folder and :class:`Options`.
        facts: what is known of a registered version or a published file beside the files of the folder; None: nothing.
    """

    kind: str
    folder: Path
    source: str
    settings: Mapping[str, Any] | None = None
    facts: Mapping[str, Any] | None = None


def find(source: str | Path, options: Options) -> Found:
    """Find a model's files: of a folder, of a published checkpoint file, or of a model of open_clip.

    Args:
        source: a model folder; a ``.pth``, ``.pt`` or ``.safetensors`` file; ``open_clip:MODEL/TAG`` or
            ``open_clip:local-dir:FOLDER``.
        options: what the files do not say.

    Raises:
        CheckpointError: there is no such model, or it is not complete.
        ConfigError: an option is not known, or means nothing for such a model.
    """
    if unknown := options.keys() - Options.__annotations__.keys():
        raise ConfigError(f"{source}: unknown option {min(unknown)!r}; expected of {', '.join(Options.__annotations__)}")
    name, path = str(source), Path(source)
    if name.startswith(f"{OPEN_CLIP}:"):
        found = Found(OPEN_CLIP, _open_clip_folder(name), name)
    elif path.is_file() and path.suffix in (*TORCH_SUFFIXES, SAFETENSORS_SUFFIX):
        found = _published(path, options)
    elif name and path.is_dir():
        found = Found(kind_of_folder(path), path, name)
    else:
        raise CheckpointError(
            f"{name}: expected a model folder, a checkpoint file (.pth, .pt, .safetensors), open_clip:MODEL/TAG or "
            f"models:/NAME@ALIAS, found {'another kind of file' if path.is_file() else 'nothing'}"
        )
    allowed = _OPTIONS_OF.get(found.kind, set()) | (_OPTIONS_OF_FILE if path.is_file() else set())
    if useless := options.keys() - allowed:
        takes = f"a model of kind {found.kind!r}, which takes {', '.join(sorted(allowed)) or 'none'}"
        raise ConfigError(f"{name}: option {min(useless)!r} means nothing for {takes}")
    return found


def kind_of_folder(folder: Path) -> str:
    """Return what the model in a folder is.

    Raises:
        CheckpointError: there is none, or one of an unknown kind.
    """
    if (folder / SKIPPED_FILE).is_file():
        reason = read_json(folder / SKIPPED_FILE).get("reason", "it does not say why")
        raise CheckpointError(f"{folder} holds no model, for none was trained: {reason}")
    if (folder / CLIP_CONFIG_FILE).is_file() or _is_timm(folder):
        return "teacher"
    if not (folder / CONFIG_FILE).is_file() and (parts := classifier_folders(folder)):
        kinds = {model_kind(part) for part in parts}
        if kinds == {classifier.KIND}:
            return "classification"
        inside = ", ".join(part.name for part in parts)
        raise CheckpointError(f"{folder} is no model folder, it holds such folders: name one of them ({inside})")
    kind = model_kind(folder)
    if kind not in KIND_OF:
        raise CheckpointError(f"{folder} is a model of kind {kind!r}: expected one of {', '.join(KIND_OF)}")
    return KIND_OF[kind]


def classifier_folders(folder: Path) -> list[Path]:
    """Return the folders of classifiers: the folder itself, or one below it for each label task."""
    if (folder / CONFIG_FILE).is_file():
        return [folder]
    return sorted(path.parent for path in folder.glob(f"*/{CONFIG_FILE}"))


def folder_settings(found: Found, options: Options) -> dict[str, Any]:
    """Return how a model is asked, as JSON values: what its files say, and what the options add.

    Raises:
        CheckpointError: the files do not say it.
        ConfigError: an option is missing or wrong.
    """
    make = _SETTINGS.get(found.kind)
    try:
        return {} if make is None else make(found, options)
    except ValueError as error:
        raise ConfigError(f"{found.source}: options of a model of kind {found.kind!r}: {error}") from error


def _teacher(found: Found, options: Options) -> dict[str, Any]:
    side, patch = tower_sizes(found.folder)
    # With the statistics that it was trained with: it is asked for what it knows, and is no student's target here.
    config = TeacherConfig(source=found.source, layers=1, normalisation="teacher")
    view = ViewConfig(frames=options.get("frames", PUBLISHED_FRAMES), size=side)
    return TeacherSettings(teacher=config, view=view, grid=side // patch).model_dump(mode="json")


def _classification(found: Found, options: Options) -> dict[str, Any]:
    parts = classifier_folders(found.folder)
    if found.facts is not None and not (parts[0] / CLASSES_FILE).is_file():
        raise ConfigError(
            f"{found.source} is a classifier, whose file does not name its labels: give classes=[...] in the order of its "
            f"head, or a JSON file with them; or make it a folder by `umt import-checkpoint`, and write {CLASSES_FILE} there"
        )
    sizes = {_clip_size(part, classifier.KIND) for part in parts}
    if len(sizes) > 1:
        raise CheckpointError(f"{found.folder}: expected classifiers that read clips of one size, found {sorted(sizes)}")
    (frames, size) = sizes.pop()
    clip = ClipConfig.model_validate({"frames": frames, "size": size, **options.get("clip", {})})
    if (clip.frames, clip.size) != (frames, size):
        raise ConfigError(
            f"{found.source}: clip: the model reads {frames} frames of {size} pixels, found {clip.frames} of {clip.size}"
        )
    values = {"clip": clip, "test": options.get("test", {})}
    return ClassificationSettings.model_validate(values).model_dump(mode="json")


def _questions(found: Found, options: Options) -> dict[str, Any]:
    if "answers" not in options:
        raise ConfigError(
            f"{found.source} is a model of kind 'question_answering', which chooses from a list of answers that its folder "
            "does not hold: give answers=[...] or the path of a JSON file with them (`umt ask --answers FILE`); a registered "
            "version brings its own"
        )
    model, _ = load_config(found.folder, question_answering.KIND)
    published = QuestionAnsweringRecipe.model_fields["max_question_length"].default
    longest = model["text"]["max_positions"]
    length = options.get("max_question_length", min(published, longest))
    values = {"answers": _texts(options["answers"], "answers"), "max_question_length": length, "test": options.get("test", {})}
    settings = QuestionSettings.model_validate(values)
    if settings.max_question_length > longest:
        raise ConfigError(f"{found.source}: max_question_length: the model reads up to {longest} tokens, found {length}")
    return settings.model_dump(mode="json")


_SETTINGS: dict[str, Callable[[Found, Options], dict[str, Any]]] = {
    OPEN_CLIP: _teacher,
    "teacher": _teacher,
    "classification": _classification,
    "question_answering": _questions,
}


def tower_sizes(folder: Path) -> tuple[int, int]:
    """Return the side of the frames that an image tower was trained on, and that of its patches, in pixels.

    Raises:
        CheckpointError: its configuration does not say them.
    """
    if _is_timm(folder):
        config = read_json(folder / CONFIG_FILE)
        side, name = config.get("pretrained_cfg", {}).get("input_size", [0, 0])[-1], str(config.get("architecture"))
        patch: Any = None
    else:
        vision = read_json(folder / CLIP_CONFIG_FILE)["model_cfg"]["vision_cfg"]
        side, name = vision.get("image_size", 224), str(vision.get("timm_model_name"))
        side = side[0] if isinstance(side, list) else side
        patch = vision.get("patch_size") if name == "None" else None
    if patch is None and (told := re.search(r"patch(\d+)", name)):
        patch = int(told[1])
    if not isinstance(patch, int) or not side or side % patch:
        raise CheckpointError(
            f"{folder}: expected a ViT whose configuration says the sides of its frames and patches, one a multiple of the "
            f"other; found frames of {side}, patches of {patch} in {name!r}"
        )
    return int(side), patch


def _is_timm(folder: Path) -> bool:
    config = folder / CONFIG_FILE
    if not config.is_file() or not (folder / TIMM_WEIGHTS_FILE).is_file():
        return False
    content = read_json(config)
    if not isinstance(content, dict) or "kind" in content:
        return False
    import timm  # takes two seconds, and few folders hold a model of its

    return timm.is_model(str(content.get("architecture")))


def _clip_size(folder: Path, kind: str) -> tuple[int, int]:
    vision = ViTConfig.model_validate(load_config(folder, kind)[0]["vision"])
    return vision.frames, vision.image_size


def _texts(given: Sequence[str] | str | Path, option: str) -> tuple[str, ...]:
    return read_text_list(Path(given), option) if isinstance(given, str | Path) else tuple(given)


def _published(file: Path, options: Options) -> Found:
    """Turn a published file into a model folder, or find the one that it was turned into."""
    kind = published_kind(read_checkpoint(file), str(file))
    tokenizer = _tokenizer(file, options) if kind in ("video-text", "question-answering") else None
    classes = _texts(options["classes"], "classes") if "classes" in options else None
    asked = Asked(options.get("image_size", PUBLISHED_IMAGE_SIZE), options.get("frames"))
    facts = [file.stem, sha256_file(file), kind, astuple(asked), tokenizer, classes, code_key("exchange.convert")]
    folder = cache_folder("imported") / _digest(facts)
    if not folder.is_dir():
        with staged_folder(folder) as staged:
            # Importing makes a folder of its own, and that of a classifier is what its label task is called.
            model = staged / file.stem
            import_checkpoint(file, kind, model, asked, tokenizer=tokenizer)
            if classes is not None:
                write_json(model / CLASSES_FILE, list(classes))
    found = folder / file.stem
    return Found(kind_of_folder(found), found, str(file), facts={"imported_from": str(file.resolve())})


def _tokenizer(file: Path, options: Options) -> str:
    """Return the folder or hub name of a published file's tokenizer, which can be read."""
    name = options.get("tokenizer", TOKENIZER)
    try:
        load_tokenizer(Path(name) if Path(name).is_dir() else str(name))
    except CheckpointError as error:
        raise CheckpointError(
            f"{file} needs the tokenizer that it was trained with: {error}. Without a network, name its folder: tokenizer=..., "
            "or turn the file into a model folder by `umt import-checkpoint --tokenizer`"
        ) from error
    return str(name)


def _open_clip_folder(source: str) -> Path:
    """Return the folder of an open_clip model, fetched if it is not here yet."""
    # Here: whoever has a model folder of ours need not wait for open_clip.
    from umt_pipeline.models.teacher_sources import FOLDER_PREFIX, OPEN_CLIP_PREFIX, check_source, fetch_teacher

    check_source(source)
    name = source.removeprefix(OPEN_CLIP_PREFIX)
    if name.startswith(FOLDER_PREFIX):
        return Path(name.removeprefix(FOLDER_PREFIX))
    weights = Path(name.partition("/")[2])
    folder = cache_folder(OPEN_CLIP) / _digest([source, sha256_file(weights) if weights.is_file() else None])
    if not folder.is_dir():
        with staged_folder(folder) as staged:
            fetch_teacher(source, staged)
    return folder


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
