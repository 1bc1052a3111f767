"""The README.md of an exported model: the model's own card, with how it is used where it runs now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umt_pipeline.exchange.runtimes.parts import LOGITS, VIDEO, ModelParts
from umt_pipeline.models import encoder
from umt_pipeline.models.card import model_card
from umt_pipeline.models.folders import load_config, model_kind

_USE, _LIMITS = "## Use\n", "## Intended use and limits\n"
_COSINES = "cosines = embeddings @ texts.T  # [clips, texts]"

_FRAMES = """Clips are {frames} RGB frames, the middle ones of {frames} equal parts of the video; of each the largest square
in its middle, scaled to {size} x {size} pixels. Pixels are whole numbers from 0 to 255: the model normalises them itself.

```python
import av
import numpy as np


def read_clip(path, frames={frames}, size={size}):
    with av.open(path) as file:
        pictures = [frame.to_image() for frame in file.decode(video=0)]
    bounds = [number * len(pictures) // frames for number in range(frames + 1)]
    chosen = [pictures[max(first, (first + last - 1) // 2)] for first, last in zip(bounds, bounds[1:])]
    side = min(chosen[0].size)
    left, top = (chosen[0].width - side) // 2, (chosen[0].height - side) // 2
    square = [picture.crop((left, top, left + side, top + side)) for picture in chosen]
    return np.stack([np.asarray(picture.resize((size, size), 2)) for picture in square])  # 2: bilinear


clips = np.stack([read_clip("clip.mp4")])  # uint8 [1, {frames}, {size}, {size}, 3]
```
"""


def export_card(model: ModelParts, manifest: Mapping[str, Any]) -> str:
    """Write the card of an export.

    Args:
        model: that is exported.
        manifest: of the export, as far as it is known.

    Returns:
        Markdown behind YAML front matter.
    """
    kind = model_kind(model.folder)
    sizes, extra = load_config(model.folder, kind)
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    # A student goes out as the encoder that is left of it.
    config = sizes if kind == model.kind else model.sizes.model_dump(mode="json")
    card = model_card(encoder.KIND if kind != model.kind else kind, config, parameters, extra)
    library = {"onnx": "onnx", "torch": "pytorch", "transformers": "transformers"}[manifest["format"]]
    head, _, rest = card.replace("library_name: umt_pipeline", f"library_name: {library}", 1).partition(_USE)
    limits = _LIMITS + rest.partition(_LIMITS)[2]
    packages, code = {"onnx": _onnx, "torch": _torch, "transformers": _transformers}[manifest["format"]](model)
    needs = f"Without umt_pipeline: `pip install numpy av pillow {packages}`, then in this folder:"
    frames = _FRAMES.format(frames=model.view.frames, size=model.view.size)
    use = [needs, "", frames, "```python", *code, "```"]
    return "\n".join([f"{head}{_USE}", *use, "", *_measured(manifest), limits])


def _onnx(model: ModelParts) -> tuple[str, list[str]]:
    lines = [
        "import onnxruntime",
        "",
        'video = onnxruntime.InferenceSession("video.onnx")',
        f'{_given(model)} = video.run(None, {{"frames": clips}})[0]',
    ]
    if model.tokenizer is None:
        return "onnxruntime", lines
    texts = [
        *_reading("np.array"),
        'text = onnxruntime.InferenceSession("text.onnx")',
        'texts = text.run(None, {"input_ids": ids, "attention_mask": mask})[0]',
        _COSINES,
    ]
    return "onnxruntime tokenizers", ["from tokenizers import Tokenizer", *lines, *texts]


def _torch(model: ModelParts) -> tuple[str, list[str]]:
    lines = [
        "import torch",
        "",
        'video = torch.export.load("video.pt2").module()',
        "with torch.inference_mode():",
        f"    {_given(model)} = video(torch.from_numpy(clips))",
    ]
    if model.tokenizer is None:
        return "torch", lines
    texts = [
        *_reading("torch.tensor"),
        'text = torch.export.load("text.pt2").module()',
        "with torch.inference_mode():",
        "    texts = text(ids, mask)",
        _COSINES,
    ]
    return "torch tokenizers", ["from tokenizers import Tokenizer", *lines, *texts]


def _transformers(model: ModelParts) -> tuple[str, list[str]]:
    imports = "AutoModel, AutoTokenizer" if model.tokenizer is not None else "AutoModel"
    lines = [
        "import torch",
        f"from transformers import {imports}",
        "",
        'model = AutoModel.from_pretrained(".", trust_remote_code=True)',
        "frames = torch.from_numpy(clips)",
        "with torch.inference_mode():",
    ]
    if _given(model) == LOGITS:
        lines += ["    logits = model(frames).logits"]
    else:
        lines += ["    embeddings = model.get_video_features(frames)"]
    if model.tokenizer is not None:
        lines[5:5] = [
            'tokenizer = AutoTokenizer.from_pretrained(".", trust_remote_code=True)  # cleans, too',
            'read = tokenizer(["a caption", "another one"], padding=True, truncation=True, return_tensors="pt")',
        ]
        lines += [
            "    texts = model.get_text_features(**read)",
            "    match = model.get_match_logits(frames, read.input_ids[:1], read.attention_mask[:1])  # pair by pair",
            f"    {_COSINES}",
        ]
    return "torch transformers timm pydantic", lines


def _given(model: ModelParts) -> str:
    return next(part.output for part in model.parts if part.name == VIDEO)


def _reading(array: str) -> list[str]:
    return [
        'tokenizer = Tokenizer.from_file("tokenizer.json")  # cleans, cuts and pads',
        'read = tokenizer.encode_batch(["a caption", "another one"])',
        f"ids = {array}([text.ids for text in read])",
        f"mask = {array}([text.attention_mask for text in read])",
    ]


def _measured(manifest: Mapping[str, Any]) -> list[str]:
    """Return what was measured when the export was written, as tables."""
    lines = ["## Compared with the model", "", f"On {manifest['compared_on']}; all numbers are in `manifest.json`.", ""]
    lines += ["| part | largest difference | allowed |", "| --- | --- | --- |"]
    for name, part in manifest["parts"].items():
        lines.append(f"| {name} | {part['parity']['largest_difference']:.1e} | {part['parity']['limit']:.0e} |")
    small = {name: part["int8"] for name, part in manifest["parts"].items() if "int8" in part}
    if small:
        titles = ("part", "cosine, mean", "cosine, least", "same nearest", "int8 per second", "fp32 per second")
        lines += ["", "With weights of 8 bits, beside fp32:", "", f"| {' | '.join(titles)} |", f"|{' --- |' * len(titles)}"]
        for name, found in small.items():
            cosines = f"{found['cosine_mean']:.5f} | {found['cosine_min']:.5f} | {100 * found['top1_agreement']:.1f} %"
            lines.append(f"| {name} | {cosines} | {found['int8_per_s']:.2f} | {found['fp32_per_s']:.2f} |")
    return [*lines, ""]
