"""A model folder for transformers: settings, weights, tokenizer, and the one file of code that they need."""

from __future__ import annotations

import importlib.util
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging

from umt_pipeline import __version__
from umt_pipeline.core.config import Config
from umt_pipeline.exchange.runtimes import hugging_face
from umt_pipeline.exchange.runtimes.bundle import bundle
from umt_pipeline.exchange.runtimes.parts import TEXT, VIDEO, ModelParts
from umt_pipeline.exchange.runtimes.programs import Runner
from umt_pipeline.exchange.runtimes.texts import raw_tokenizer
from umt_pipeline.models import encoder, video_text
from umt_pipeline.models.folders import WEIGHTS_FILE
from umt_pipeline.models.video_text import VideoTextConfig
from umt_pipeline.tasks.classification import model as classification

CODE_FILE = "modeling_unmasked_teacher.py"
_CONFIG = hugging_face.UnmaskedTeacherConfig.__name__


@dataclass(frozen=True)
class _Class:
    """The class that a kind of model becomes.

    Attributes:
        name: of the class.
        auto: the classes of transformers that find it.
        features: methods that give what the parts of these names give.
    """

    name: str
    auto: tuple[str, ...]
    features: Mapping[str, Callable[[Any], Runner]]


_CLASSES = {
    video_text.KIND: _Class(
        hugging_face.UnmaskedTeacherVideoText.__name__,
        ("AutoModel",),
        {VIDEO: lambda model: model.get_video_features, TEXT: lambda model: model.get_text_features},
    ),
    encoder.KIND: _Class(
        hugging_face.UnmaskedTeacherVideo.__name__, ("AutoModel",), {VIDEO: lambda model: model.get_video_features}
    ),
    classification.KIND: _Class(
        hugging_face.UnmaskedTeacherClassifier.__name__,
        ("AutoModel", "AutoModelForVideoClassification"),
        {VIDEO: lambda model: lambda frames: model(frames).logits},
    ),
}


def code_for(kind: str) -> str:
    """Return the file of code that a kind of model needs, made from this package's modules."""
    title = f"Code of umt_pipeline {__version__} that this model needs, put together by `umt export`. Apache License 2.0."
    roots = (_CONFIG, _CLASSES[kind].name)
    return bundle(hugging_face.__name__.partition(".")[2], roots, title)


def write_transformers(model: ModelParts, folder: Path) -> None:
    """Write a model for ``AutoModel`` and ``AutoTokenizer`` into a folder that is there."""
    found = _CLASSES[model.kind]
    module = Path(CODE_FILE).stem
    labels: dict[str, Any] = {}
    if model.classes is not None:
        labels = {"id2label": dict(enumerate(model.classes))}
    elif model.kind == classification.KIND:
        labels = {"num_labels": model.parts[0].width}
    config = hugging_face.UnmaskedTeacherConfig(
        sizes=_without_training(model.sizes),
        architectures=[found.name],
        auto_map={"AutoConfig": f"{module}.{_CONFIG}"} | dict.fromkeys(found.auto, f"{module}.{found.name}"),
        dtype="float32",
        **labels,
    )
    config.save_pretrained(folder)
    weights = {name: tensor for name, tensor in model.model.state_dict().items() if not name.startswith("heads.")}
    named = {f"model.{name}": tensor.contiguous() for name, tensor in weights.items()}
    save_file(named, folder / WEIGHTS_FILE, {"format": "pt"})
    (folder / CODE_FILE).write_text(code_for(model.kind), encoding="utf-8")
    if model.tokenizer is not None:
        raw_tokenizer(model).save_pretrained(str(folder))


@contextmanager
def loaded(folder: Path, kind: str) -> Iterator[dict[str, Runner]]:
    """Yield what a written folder computes for each part, with the code that lies in it."""
    found = _CLASSES[kind]
    with _imported(folder / CODE_FILE) as module:
        with _no_bar():
            model = getattr(module, found.name).from_pretrained(folder)

        def runner(method: Runner) -> Runner:
            @torch.inference_mode()
            def run(*inputs: Tensor) -> Tensor:
                return method(*inputs)

            return run

        yield {name: runner(method(model)) for name, method in found.features.items()}


@contextmanager
def _no_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def _imported(file: Path) -> Iterator[ModuleType]:
    # Its classes look for their names where they are said to be: among the modules.
    name = f"umt_exported_{secrets.token_hex(4)}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, "a file of Python can be imported"
    assert spec.loader is not None, "as above"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    written = sys.dont_write_bytecode
    sys.dont_write_bytecode = True  # The folder holds what was written, and nothing else.
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        sys.dont_write_bytecode = written
        del sys.modules[name]


def _without_training(sizes: Config) -> dict[str, Any]:
    """Return sizes as JSON without the heads and sources that only training has."""
    if isinstance(sizes, VideoTextConfig):
        text = sizes.text.model_copy(update={"pretrained": None})
        sizes = sizes.model_copy(update={"align_layers": 0, "target_dim": 0, "text": text})
    return sizes.model_dump(mode="json")
