"""A model folder to a folder for another runtime, compared with the model before it is left behind.

Shapes: B clips or texts, T frames, S side of a frame in pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from umt_pipeline import __version__
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.core.files import read_json, sha256_file, staged_folder, write_json
from umt_pipeline.core.progress import progress
from umt_pipeline.exchange.runtimes import int8
from umt_pipeline.exchange.runtimes.card import export_card
from umt_pipeline.exchange.runtimes.parts import LOGITS, TEXT, VIDEO, ModelParts, Part, load_parts, run
from umt_pipeline.exchange.runtimes.programs import RUNTIMES, Runner
from umt_pipeline.exchange.runtimes.samples import Samples, drawn_samples
from umt_pipeline.exchange.runtimes.texts import TOKENIZER_FILE, raw_tokenizer
from umt_pipeline.exchange.runtimes.transformers_folder import loaded, write_transformers
from umt_pipeline.models.folders import CARD_FILE, CLASSES_FILE, weights_sha256
from umt_pipeline.video.views import ViewConfig

TRANSFORMERS = "transformers"
FORMATS = (*RUNTIMES, TRANSFORMERS)
MANIFEST_FILE = "manifest.json"
# Largest difference of unit vectors, or of logits as a share of the largest one. transformers runs the same operators.
TOLERANCES = {"onnx": 1e-4, "torch": 1e-4, TRANSFORMERS: 1e-5}
# Samples that are compared, in a run of the first one and one of all: sizes are open only if both work.
COMPARED = 4
ROWS_PER_RUN = 4


def export_model(
    folder: Path,
    out: Path,
    format: str,
    *,
    as_int8: bool = False,
    samples_for: Callable[[ViewConfig], Samples] = drawn_samples,
    source: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Write a model for another runtime, and compare what was written with the model.

    Args:
        folder: of a model of stage 1, stage 2 or retrieval, of a bare encoder or of a classifier.
        out: the folder to write, whole or not at all.
        format: one of :data:`FORMATS`.
        as_int8: also write ONNX models with weights of 8 bits, and measure what is lost.
        samples_for: gives what is compared on, in the model's view.
        source: what the manifest calls the model, such as a registered version; None: the folder's name.
        force: replace an export that is there.

    Returns:
        The manifest: what was written, from what, how large, and how far from the model.

    Raises:
        ConfigError: the format is unknown or cannot be had as int8, ``out`` is there already, a package is missing, or the
            samples do not fit the model.
        CheckpointError: the folder is no complete model, of a kind of which nothing is exported, or what was written
            computes something else. Nothing is left behind then.
    """
    _check_format(format, as_int8)
    _check_target(out, folder, force)
    model = load_parts(folder)
    samples = samples_for(model.view)
    _check_samples(model, samples)
    with staged_folder(out) as staged:
        if format == TRANSFORMERS:
            written = _as_transformers(model, staged, samples)
        else:
            written = _as_programs(model, staged, format, samples, as_int8)
        if model.classes is not None:
            write_json(staged / CLASSES_FILE, list(model.classes))
        manifest = _manifest(model, source or folder.resolve().name, format, samples) | written
        (staged / CARD_FILE).write_text(export_card(model, manifest), encoding="utf-8")
        manifest["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": sha256_file(path)} for path in sorted(staged.iterdir())
        }
        write_json(staged / MANIFEST_FILE, manifest)
    return manifest


def _check_format(format: str, as_int8: bool) -> None:
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}, expected one of {', '.join(FORMATS)}")
    if as_int8 and format != "onnx":
        raise ConfigError(f"int8 is asked of the format {format!r}, which has none: take onnx")
    if format in RUNTIMES:
        RUNTIMES[format].require_packages()


def _check_target(out: Path, folder: Path, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise ConfigError(f"{out} exists already: choose another folder, or replace it by --force")
    if folder.resolve().is_relative_to(out.resolve()):
        raise ConfigError(f"{out} holds the model {folder} itself, which --force would delete: choose another folder")
    manifest = read_json(out / MANIFEST_FILE) if (out / MANIFEST_FILE).is_file() else None
    if not isinstance(manifest, dict) or manifest.get("format") not in FORMATS:
        raise ConfigError(f"{out} is no folder that an export wrote, so --force does not replace it: choose another folder")


def _check_samples(model: ModelParts, samples: Samples) -> None:
    expected = (model.view.frames, model.view.size, model.view.size, 3)
    if tuple(samples.frames_BTSSC.shape[1:]) != expected:
        found = tuple(samples.frames_BTSSC.shape[1:])
        raise ConfigError(f"{samples.source}: expected clips of {expected}, as {model.folder} reads them, found {found}")
    if model.tokenizer is not None and len(samples.texts) < 2:
        raise ConfigError(
            f"{samples.source}: expected captions of two clips or more, as the model reads texts; found {len(samples.texts)}: "
            "give a table of them by --captions"
        )


def _manifest(model: ModelParts, source: str, format: str, samples: Samples) -> dict[str, Any]:
    facts = {} if format == TRANSFORMERS else RUNTIMES[format].facts()
    text = None if model.tokenizer is None else {"longest": model.text_length, "tokenizer": TOKENIZER_FILE}
    return {
        "format": format,
        "versions": {"umt_pipeline": __version__, "torch": torch.__version__, **facts},
        "model": {
            "source": source,
            "kind": model.kind,
            "weights_sha256": weights_sha256(model.folder),
            "sizes": model.sizes.model_dump(mode="json"),
        },
        "frames": {"count": model.view.frames, "size": model.view.size},
        "text": text,
        "compared_on": samples.source,
    }


def _as_programs(model: ModelParts, folder: Path, format: str, samples: Samples, as_int8: bool) -> dict[str, Any]:
    runtime = RUNTIMES[format]
    parts: dict[str, Any] = {}
    results: dict[str, tuple[Tensor, Tensor]] = {}
    for part in model.parts:
        file = folder / f"{part.name}{runtime.suffix}"
        runtime.write(part, _rows(model, part, samples, slice(0, 2)), file)
        exported = runtime.load(file)
        parity = _parity(model, part, exported, samples, format)
        parts[part.name] = _described(model, part) | {"file": file.name, "parity": parity}
        if as_int8:
            small = folder / f"{part.name}{int8.SUFFIX}"
            int8.quantise(file, small)
            rough = runtime.load(small)
            results[part.name] = (_all(model, part, exported, samples, "fp32"), _all(model, part, rough, samples, "int8"))
            loss = int8.loss_of(*results[part.name], classes=part.output == LOGITS)
            speed = int8.speeds(exported, rough, _rows(model, part, samples, slice(0, ROWS_PER_RUN)))
            parts[part.name]["int8"] = {"file": small.name, **int8.as_rows(loss, speed)}
    if model.tokenizer is not None:
        raw_tokenizer(model).backend_tokenizer.save(str(folder / TOKENIZER_FILE))
    found: dict[str, Any] = {"parts": parts}
    if {VIDEO, TEXT} <= results.keys():
        exact, rough_vectors = ({name: pair[side] for name, pair in results.items()} for side in (0, 1))
        found["int8_search"] = int8.retrieval_agreement(exact, rough_vectors)
    return found


def _as_transformers(model: ModelParts, folder: Path, samples: Samples) -> dict[str, Any]:
    write_transformers(model, folder)
    with loaded(folder, model.kind) as exported:
        parts = {
            part.name: _described(model, part) | {"parity": _parity(model, part, exported[part.name], samples, TRANSFORMERS)}
            for part in model.parts
        }
    return {"parts": parts}


def _described(model: ModelParts, part: Part) -> dict[str, Any]:
    """Return what a part reads and gives, with open sizes by name."""
    view = model.view
    if part.name == VIDEO:
        inputs = {name: ["uint8", ["batch", view.frames, view.size, view.size, 3]] for name in part.inputs}
    else:
        inputs = {name: ["int64", ["batch", "tokens"]] for name in part.inputs}
    return {"inputs": inputs, "output": {part.output: ["float32", ["batch", part.width]]}}


def _parity(model: ModelParts, part: Part, exported: Runner, samples: Samples, format: str) -> dict[str, float]:
    """Compare an exported network with torch's.

    Raises:
        CheckpointError: they differ by more than the format's tolerance.
    """
    limit, worst = TOLERANCES[format], 0.0
    for rows in (slice(0, 1), slice(0, COMPARED)):
        inputs = _rows(model, part, samples, rows)
        expected, found = run(part, *inputs), exported(*inputs)
        difference = float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
        # NaN is neither above nor below the limit, and is refused too.
        if not difference <= limit:
            raise CheckpointError(
                f"{model.folder}: the {part.name} part, exported as {format}, differs from the model by {difference:.2g}; "
                f"expected up to {limit:g}. Nothing was written"
            )
        worst = max(worst, difference)
    return {"largest_difference": worst, "limit": limit}


def _rows(model: ModelParts, part: Part, samples: Samples, rows: slice) -> tuple[Tensor, ...]:
    return model.inputs(part, samples.frames_BTSSC[rows], samples.texts[rows])


def _all(model: ModelParts, part: Part, exported: Runner, samples: Samples, name: str) -> Tensor:
    """Return what a network gives of all samples."""
    count = len(samples.frames_BTSSC) if part.name == VIDEO else len(samples.texts)
    found = []
    with progress(f"{part.name}, {name}", count, "sample") as show:
        for start in range(0, count, ROWS_PER_RUN):
            found.append(exported(*_rows(model, part, samples, slice(start, start + ROWS_PER_RUN))))
            show(min(start + ROWS_PER_RUN, count))
    return torch.cat(found)
