"""Model folders with random weights, which are as fast as trained ones.

Nothing of tokenizers and open_clip is imported before a folder is written.

Shapes: U sentences, D text width, E embedding width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Size
from synthetic import PATCH
from torch import Tensor, nn

from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.models.teacher import save_open_clip
from umt_pipeline.models.text import TextConfig
from umt_pipeline.models.tokenizer import train_wordpiece
from umt_pipeline.models.video_text import VideoTextConfig, VideoTextModel, save_video_text
from umt_pipeline.models.vit import ViTConfig

# Words of the texts that are asked for, which all tokenizers know.
COLOURS = ("a red", "a blue", "a small", "a white", "an old", "a large", "a striped", "the same")
THINGS = ("bus", "dog", "man in a hat", "child", "boat", "car", "group of people", "hand")
DEEDS = ("turns left", "runs along the beach", "waves", "falls down", "passes behind a tree", "comes nearer", "stands still")
# What the demo trains: its cost is far below that of decoding.
DEMO = VideoTextConfig(
    vision=ViTConfig(image_size=48, patch_size=12, frames=4, dim=128, depth=4, heads=4),
    text=TextConfig(vocab_size=256, dim=128, layers=3, fusion_layer=2, heads=4, mlp_dim=512, max_positions=32, vision_dim=128),
    embed_dim=128,
)
# Factor on the random weights of the text encoder: larger weights put sentences farther apart, and a projection of sentences
# that lie close together amplifies what bf16 rounds away.
SPREAD = 3.0
OPEN_CLIP = "ViT-B-16"
TINY_CLIP: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


def model_of(sizes: Size) -> VideoTextConfig:
    """Return the stage-2 model of a size."""
    vision = ViTConfig(
        image_size=sizes.pixels,
        patch_size=PATCH,
        frames=sizes.frames,
        dim=sizes.student.dim,
        depth=sizes.student.depth,
        heads=sizes.student.heads,
    )
    text = TextConfig(**sizes.text, max_positions=512, vision_dim=vision.dim)
    return VideoTextConfig(vision=vision, text=text, embed_dim=sizes.embed_dim)


def sentences() -> list[str]:
    """Return captions, each of them another one."""
    return [f"{colour} {thing} {deed}" for colour in COLOURS for thing in THINGS for deed in DEEDS]


def write_video_text(folder: Path, config: VideoTextConfig, said_UE: np.ndarray | None = None) -> Path:
    """Write a stage-2 model, whose tokenizer has the words of :func:`sentences`.

    Args:
        folder: where.
        config: of the model.
        said_UE: unit vectors that it is to give for the first U sentences, no more than the text encoder is wide.
    """
    torch.manual_seed(0)
    model = VideoTextModel.create(config).eval()
    tokenizer = train_wordpiece(sentences(), min(256, config.text.vocab_size))
    if said_UE is not None:
        fit_texts(VideoTextEncoder("model", model, tokenizer), torch.from_numpy(said_UE))
    folder.mkdir(parents=True)
    save_video_text(folder, model, tokenizer)
    return folder


@torch.no_grad()
def fit_texts(encoder: VideoTextEncoder, said_UE: Tensor) -> None:
    """Fit the projection of texts, so that the first sentences get given vectors, in bf16 nearly so.

    Random weights put all sentences at nearly the same place; queries would all search the same corner of an index.
    """
    for module in encoder.model.text.modules():
        if isinstance(module, nn.Linear):
            module.weight.mul_(SPREAD)
    tokens_ULD, _, _ = encoder.encode_text(sentences()[: len(said_UE)])
    first_UD = tokens_ULD[:, 0].double()
    # One column more: the bias.
    first_UD = torch.cat([first_UD, torch.ones(len(first_UD), 1, dtype=torch.float64)], dim=1)
    solved_DE = torch.linalg.lstsq(first_UD, said_UE.double(), driver="gelsd").solution
    encoder.model.text_proj.weight.copy_(solved_DE[:-1].T)
    encoder.model.text_proj.bias.copy_(solved_DE[-1])


def write_clip(folder: Path, size: str) -> Path:
    """Write a CLIP in open_clip's own layout, with open_clip's own tokenizer."""
    import open_clip

    torch.manual_seed(0)
    folder.mkdir(parents=True)
    config = TINY_CLIP if size == "tiny" else open_clip.get_model_config(OPEN_CLIP)
    clip = open_clip.CLIP(**config)
    clip.visual.image_mean, clip.visual.image_std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    save_open_clip(clip, config, None, folder)
    return folder
