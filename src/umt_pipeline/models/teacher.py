"""The frozen CLIP image model that teaches: tokens of its last blocks and the attention that draws the masks.

Shapes: F frames, H W pixels, N patches per frame, n visible patches per frame, W teacher width, K returned layers,
C output width, B texts.

Source: UMT section 3.2 and the published code: block outputs without the class token go through the tower's final norm
and projection and are L2-normalised; the mask is drawn from the last block's class-token attention averaged over heads;
the input keeps the student's (ImageNet) normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from umt_pipeline.config import Config
from umt_pipeline.errors import CheckpointError, ConfigError
from umt_pipeline.files import read_json, sha256_file, write_json
from umt_pipeline.models.vit import last_layers
from umt_pipeline.video.pixels import IMAGENET_MEAN, IMAGENET_STD

# A segmentation fault was seen inside torch's native inference kernel of nn.MultiheadAttention. It was later traced to av
# having been used before torch was loaded (see tests/conftest.py), which crashes the plain path too, so this is probably not
# needed; it stays until the results are made anew, since the two paths round differently.
torch.backends.mha.set_fastpath_enabled(False)

CLIP_CONFIG_FILE = "open_clip_config.json"
CLIP_WEIGHTS_FILE = "open_clip_model.safetensors"
TRAIN_SMALL = "train_small"
OPEN_CLIP_PREFIX = "open_clip:"


class TeacherConfig(Config):
    """Which teacher, and what is taken from it.

    ``source`` is ``train_small`` (train a small CLIP on this corpus' frames) or
    ``open_clip:<model>/<pretrained tag or weights file>``. ``normalisation`` is ``student`` (ImageNet statistics, as
    published) or ``teacher`` (the statistics the teacher was trained with).
    """

    source: str = TRAIN_SMALL
    layers: int = 6
    normalisation: Literal["student", "teacher"] = "student"


@dataclass(frozen=True)
class TeacherOutput:
    """What one forward pass gives.

    Attributes:
        layers_KFNW: raw outputs of the last K blocks without the class token.
        attention_FN: the last block's class-token attention to the patches, averaged over heads, float32.
        cls_FC: the projected class token, unit length: CLIP's image embedding.
    """

    layers_KFNW: Tensor
    attention_FN: Tensor
    cls_FC: Tensor


class Teacher(nn.Module):
    """A frozen open_clip ViT tower (with its text tower) that answers without gradients and stays in eval mode."""

    scale_C11: Tensor
    shift_C11: Tensor

    def __init__(self, clip: nn.Module, tokenizer: object, config: TeacherConfig, grid: int, weights_sha256: str) -> None:
        super().__init__()
        visual = clip.visual
        if not isinstance(visual, VisionTransformer) or visual.attn_pool is not None or visual.pool_type != "tok":
            raise ConfigError(
                f"teacher.source {config.source!r}: need an open_clip ViT whose class token is its image embedding, "
                f"found {type(visual).__name__} with pooling {getattr(visual, 'pool_type', '?')!r}"
            )
        self.clip = clip
        self.visual = visual
        self.tokenizer = tokenizer
        self.config = config
        self.grid = grid
        self.weights_sha256 = weights_sha256
        self.layer_indices = last_layers(len(visual.transformer.resblocks), config.layers)
        visual.positional_embedding = nn.Parameter(_resize_positions(visual.positional_embedding, visual.grid_size, grid))
        mean, std = getattr(visual, "image_mean", None) or IMAGENET_MEAN, getattr(visual, "image_std", None) or IMAGENET_STD
        # x_student = (x - m) / s  ->  x_teacher = (x - M) / S = x_student * s / S + (m - M) / S
        scale = torch.tensor(IMAGENET_STD) / torch.tensor(std)
        shift = (torch.tensor(IMAGENET_MEAN) - torch.tensor(mean)) / torch.tensor(std)
        self.register_buffer("scale_C11", scale[:, None, None], persistent=False)
        self.register_buffer("shift_C11", shift[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def target_dim(self) -> int:
        """C, the width of the projected tokens."""
        return int(self.visual.output_dim)

    @property
    def input_size(self) -> int:
        """The side in pixels at which the tower's own patches give the student's grid (196 for a /14 tower and 14x14)."""
        return int(self.grid * self.visual.patch_size[0])

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode whatever the parent module does."""
        del mode
        return super().train(False)

    @torch.no_grad()
    def forward(self, frames_FCHW: Tensor) -> TeacherOutput:
        """Run the tower on every patch of every frame.

        Args:
            frames_FCHW: frames with ImageNet normalisation; resized (bicubic, as published) if the tower needs another
                size to give the student's grid.
        """
        if self.config.normalisation == "teacher":
            frames_FCHW = frames_FCHW * self.scale_C11 + self.shift_C11
        if frames_FCHW.shape[-1] != self.input_size:
            frames_FCHW = F.interpolate(frames_FCHW, size=self.input_size, mode="bicubic", align_corners=False)
        x_FSW = self.visual._embeds(frames_FCHW)
        chosen = []
        blocks = self.visual.transformer.resblocks
        attention_FN = x_FSW.new_empty(0)
        for index, block in enumerate(blocks):
            if index == len(blocks) - 1:
                attention_FN = _class_attention(block, x_FSW)
            x_FSW = block(x_FSW)
            if index in self.layer_indices:
                chosen.append(x_FSW[:, 1:])
        cls_FC = F.normalize((self.visual.ln_post(x_FSW[:, 0]) @ self.visual.proj).float(), dim=-1)
        return TeacherOutput(torch.stack(chosen), attention_FN, cls_FC)

    @torch.no_grad()
    def project(self, layers_KFNW: Tensor, visible_Fn: Tensor | None = None) -> Tensor:
        """Turn block outputs into targets, gathering the visible patches first so that hidden ones cost nothing.

        Args:
            layers_KFNW: from :meth:`forward`.
            visible_Fn: indices in [0, N) per frame; all patches when None.

        Returns:
            Unit vectors [K, F, n, C], float32.
        """
        if visible_Fn is not None:
            index = visible_Fn[None, :, :, None].expand(layers_KFNW.shape[0], -1, -1, layers_KFNW.shape[-1])
            layers_KFNW = layers_KFNW.gather(2, index)
        return F.normalize((self.visual.ln_post(layers_KFNW) @ self.visual.proj).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Return CLIP's unit-length text embeddings [B, C]."""
        ids_BL = self.tokenizer(texts).to(self.visual.proj.device)  # type: ignore[operator]
        return self.clip.encode_text(ids_BL, normalize=True).float()  # type: ignore[operator]


def load_teacher(folder: Path, config: TeacherConfig, grid: int) -> Teacher:
    """Load the teacher folder (open_clip's local layout).

    Args:
        folder: holds ``open_clip_config.json``, ``open_clip_model.safetensors`` and, for a word-piece text tower, its
            tokenizer files.
        config: how many layers, which normalisation.
        grid: patches along a side of the student's frame; the tower's position table is resized to it.

    Raises:
        CheckpointError: the folder is not complete or its files cannot be read.
    """
    for name in (CLIP_CONFIG_FILE, CLIP_WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is no teacher folder: {name} is missing. Run the teacher_features pipeline.")
    try:
        clip = open_clip.create_model(f"local-dir:{folder}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise CheckpointError(f"teacher folder {folder} cannot be loaded by open_clip: {error}") from error
    return Teacher(clip, tokenizer, config, grid, sha256_file(folder / CLIP_WEIGHTS_FILE))


def fetch_teacher(source: str, folder: Path) -> None:
    """Write an open_clip model into ``folder`` in the local layout that :func:`load_teacher` reads.

    Args:
        source: ``open_clip:<model>/<pretrained tag or weights file>``.
        folder: an existing, empty folder.

    Raises:
        ConfigError: the source names no known model, tag or file.
        CheckpointError: the weights cannot be fetched or do not fit the model.
    """
    model_name, _, pretrained = source.removeprefix(OPEN_CLIP_PREFIX).partition("/")
    model_config = open_clip.get_model_config(model_name)
    if model_config is None:
        known = ", ".join(open_clip.list_models()[:8])
        raise ConfigError(f"teacher.source {source!r}: open_clip knows no model {model_name!r} (it knows {known}, …)")
    tags = open_clip.list_pretrained_tags_by_model(model_name)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise ConfigError(
            f"teacher.source {source!r}: {pretrained!r} is neither a file nor a pretrained tag of {model_name} "
            f"(expected one of {', '.join(tags) or 'no tags'}, or the path of a weights file)"
        )
    try:
        clip = open_clip.create_model(model_name, pretrained=pretrained)
    except (RuntimeError, OSError, ValueError) as error:
        raise CheckpointError(f"teacher.source {source!r} cannot be loaded: {error}") from error
    if pretrained == "openai":
        model_config = {**model_config, "quick_gelu": True}
    save_clip(clip, model_config, open_clip.get_tokenizer(model_name), folder)


def save_clip(clip: nn.Module, model_config: dict, tokenizer: object, folder: Path) -> None:
    """Write a CLIP model, its configuration and (if it has one of its own) its tokenizer into ``folder``."""
    preprocess = {"mean": list(clip.visual.image_mean), "std": list(clip.visual.image_std)}  # type: ignore[union-attr, arg-type]
    write_json(folder / CLIP_CONFIG_FILE, {"model_cfg": model_config, "preprocess_cfg": preprocess})
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in clip.state_dict().items()}
    save_file(state, folder / CLIP_WEIGHTS_FILE, metadata={"format": "pt"})
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder))


def read_clip_config(folder: Path) -> dict:
    """Return the ``model_cfg`` of a teacher folder."""
    return read_json(folder / CLIP_CONFIG_FILE)["model_cfg"]


def _class_attention(block: ResidualAttentionBlock, x_FSW: Tensor) -> Tensor:
    # Only the class token's row of the attention matrix is needed, so only that query is computed; the keys are the
    # block's own. The full matrix would forbid the fused kernel for the whole block.
    attn = block.attn
    normed_FSW = block.ln_1(x_FSW)
    F_, S, W = normed_FSW.shape
    heads, head_dim = attn.num_heads, W // attn.num_heads
    weight_q, weight_k = attn.in_proj_weight[:W], attn.in_proj_weight[W : 2 * W]
    bias_q, bias_k = attn.in_proj_bias[:W], attn.in_proj_bias[W : 2 * W]
    q = F.linear(normed_FSW[:, 0], weight_q, bias_q).reshape(F_, heads, 1, head_dim)
    k = F.linear(normed_FSW, weight_k, bias_k).reshape(F_, S, heads, head_dim).permute(0, 2, 3, 1)
    weights = ((q @ k).float() * head_dim**-0.5).softmax(dim=-1)
    return weights[:, :, 0, 1:].mean(dim=1)


def _resize_positions(table: Tensor, own_grid: tuple[int, int], grid: int) -> Tensor:
    # The class token's entry is kept, the patches' part is interpolated bicubically in float32, as published.
    if own_grid == (grid, grid):
        return table.detach().clone()
    patches = table[1:].detach().float().reshape(1, *own_grid, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((table[:1].detach().float(), patches.permute(0, 2, 3, 1).reshape(grid * grid, -1))).to(table.dtype)
