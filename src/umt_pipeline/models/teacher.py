"""The frozen image model that teaches: tokens of its last blocks and the importance of patches that draws the masks.

Shapes: F frames, S side of a frame in pixels, X prefix tokens, N patches per frame, n visible patches per frame, W teacher
width, K returned layers, C output width, E width of the image embedding, B texts, L text length.

Source: UMT section 3.2 and the published code: block outputs without the class token go through the tower's final norm
and projection and are L2-normalised; the mask is drawn from the last block's class-token attention averaged over heads;
the input keeps the student's (ImageNet) normalisation. Towers of other kinds: see :mod:`umt_pipeline.models.towers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from umt_pipeline.compute.precision import full_precision
from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import CheckpointError, ConfigError
from umt_pipeline.core.files import sha256_file, write_json
from umt_pipeline.masking import Importance
from umt_pipeline.models.alignment import aligned_layers
from umt_pipeline.models.flops import teacher_macs
from umt_pipeline.video.pixels import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from umt_pipeline.models.towers import TowerOutput

# Not torch's native inference kernel of nn.MultiheadAttention: it rounds differently from the path that open_clip trains
# with, and the demo's pinned results are of this one.
torch.backends.mha.set_fastpath_enabled(False)

CLIP_CONFIG_FILE = "open_clip_config.json"
CLIP_WEIGHTS_FILE = "open_clip_model.safetensors"
TIMM_CONFIG_FILE = "config.json"
TIMM_WEIGHTS_FILE = "model.safetensors"
TRAIN_SMALL = "train_small"


class TeacherConfig(Config):
    """Which teacher, and what is taken from it.

    Attributes:
        source: ``train_small`` (train a small CLIP on this corpus' frames) or one of
            :data:`umt_pipeline.models.teacher_sources.SOURCES`.
        layers: K, blocks whose tokens are targets.
        interval: blocks from one of them to the next, see :func:`umt_pipeline.models.alignment.aligned_layers`.
        normalisation: ``student`` (ImageNet statistics, as published) or ``teacher`` (those it was trained with).
    """

    source: str = TRAIN_SMALL
    layers: int = Field(6, ge=1)
    interval: float = Field(1.0, gt=0.0)
    normalisation: Literal["student", "teacher"] = "student"


class Teacher(nn.Module):
    """A frozen image tower (and its text tower, if wanted) that runs without gradients and stays in eval mode.

    Args:
        model: an open_clip model or a timm ViT.
        tokenizer: the text tower's tokenizer; None leaves the text tower out.
        config: how many layers, which normalisation.
        grid: patches along a side of the student's frame; the tower's positions are fitted to it.
        weights_sha256: identity of the weights.
        folder: where it was loaded from, so that other processes can load it too.

    Raises:
        ConfigError: the tower is no plain ViT, or has fewer blocks than ``config.layers``.
    """

    scale_311: Tensor
    shift_311: Tensor

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,
        config: TeacherConfig,
        grid: int,
        weights_sha256: str,
        folder: Path | None = None,
    ) -> None:
        # Imported where there is a model: timm brings torchvision and torch's compiler, which take two seconds.
        from umt_pipeline.models.towers import make_tower

        super().__init__()
        self.tower = make_tower(model, config.source, grid)
        try:
            self.layer_indices = aligned_layers(self.tower.depth, config.layers, config.interval)
        except ValueError as error:
            raise ConfigError(f"teacher.layers, teacher.interval of {config.source!r}: {error}") from error
        self.text_model = None if tokenizer is None else model
        self.tokenizer = tokenizer
        self.config = config
        self.grid = grid
        self.weights_sha256 = weights_sha256
        self.folder = folder
        mean, std = (torch.tensor(values) for values in self.tower.statistics)
        # x_student = (x - m) / s  ->  x_teacher = (x - M) / S = x_student * s / S + (m - M) / S
        scale = torch.tensor(IMAGENET_STD) / std
        shift = (torch.tensor(IMAGENET_MEAN) - mean) / std
        self.register_buffer("scale_311", scale[:, None, None], persistent=False)
        self.register_buffer("shift_311", shift[:, None, None], persistent=False)
        self.requires_grad_(False)
        self.eval()

    @property
    def target_dim(self) -> int:
        """C, the width of the projected tokens."""
        return self.tower.output_dim

    @property
    def importance(self) -> Importance:
        """What the importance of a patch is read from."""
        return self.tower.importance

    @property
    def input_size(self) -> int:
        """The side in pixels at which the tower's own patches give the student's grid (196 for a /14 tower and 14x14)."""
        return self.grid * self.tower.patch_size

    @property
    def has_text(self) -> bool:
        """Whether there is a text tower: timm's models have none."""
        return self.text_model is not None

    def describe(self) -> str:
        """Return one line that says what this teacher is and how it is used."""
        return (
            f"{self.config.source}: blocks {self.layer_indices} of {self.tower.depth}, targets of width "
            f"{self.target_dim}, importance from {self.importance}, input {self.input_size} pixels with the statistics of "
            f"the {self.config.normalisation}"
        )

    def macs(self, frames: int, visible_per_frame: int) -> int | None:
        """Return the multiply-accumulates of the targets of one clip; None where the tower's cost is not known.

        Args:
            frames: of a clip.
            visible_per_frame: patches whose tokens are projected.
        """
        size = self.tower.size
        return None if size is None else teacher_macs(size, frames, self.grid, self.config.layers, visible_per_frame).total

    def train(self, mode: bool = True) -> Teacher:
        """Stay in eval mode whatever the parent module does."""
        del mode
        return super().train(False)

    def compile_blocks(self) -> None:
        """Let torch.compile compile the tower's blocks in place, one by one: they have the same code, so it does so once.

        The last one is left out: a hook in it hands on what the importance of patches is read from.
        """
        for block in self.tower.blocks[:-1]:
            block.compile()

    @torch.no_grad()
    def forward(self, frames_F3SS: Tensor) -> TowerOutput:
        """Run the tower on every patch of every frame.

        Args:
            frames_F3SS: frames with ImageNet normalisation; resized (bicubic, as published) if the tower needs another
                size to give the student's grid.
        """
        if self.config.normalisation == "teacher":
            frames_F3SS = frames_F3SS * self.scale_311 + self.shift_311
        if frames_F3SS.shape[-1] != self.input_size:
            frames_F3SS = F.interpolate(frames_F3SS, size=self.input_size, mode="bicubic", align_corners=False)
        return self.tower(frames_F3SS, self.layer_indices)

    @torch.no_grad()
    def project(self, layers_KFNW: Sequence[Tensor], visible_Fn: Tensor | None = None) -> Tensor:
        """Turn block outputs into targets, gathering the visible patches first so that hidden ones cost nothing.

        In float32 inside of autocast too: it costs a hundredth of the tower, and half of what bf16 errs by.

        Args:
            layers_KFNW: from :meth:`forward`.
            visible_Fn: indices in [0, N) per frame; all patches when None.

        Returns:
            Unit vectors [K, F, n, C], float32.
        """
        chosen = list(layers_KFNW)
        if visible_Fn is not None:
            index_FnW = visible_Fn.unsqueeze(-1).expand(-1, -1, chosen[0].shape[-1])
            chosen = [tokens_FNW.gather(1, index_FnW) for tokens_FNW in chosen]
        with full_precision(chosen[0].device):
            return F.normalize(self.tower.project(torch.stack(chosen).float()), dim=-1)

    @torch.no_grad()
    def embed_image(self, output: TowerOutput) -> Tensor:
        """Return the tower's own image embedding (CLIP's, for a CLIP) of what :meth:`forward` gave: unit length [F, E]."""
        return F.normalize(self.tower.embed(output.prefix_FXW, output.layers_KFNW[-1]).float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: list[str]) -> Tensor:
        """Return CLIP's unit-length text embeddings [B, E].

        Raises:
            ConfigError: there is no text tower.
        """
        if self.text_model is None:
            raise ConfigError(f"teacher {self.config.source!r} has no text tower, or was loaded without it")
        ids_BL = self.tokenizer(texts).to(self.scale_311.device)
        return self.text_model.encode_text(ids_BL, normalize=True).float()  # type: ignore[operator]


def teacher_weights_file(folder: Path) -> Path:
    """Return the weights of a teacher folder, whose SHA-256 is the teacher's identity.

    Raises:
        CheckpointError: a file of the layout, open_clip's or timm's, is missing.
    """
    is_timm = (folder / TIMM_WEIGHTS_FILE).is_file() and not (folder / CLIP_CONFIG_FILE).is_file()
    needed = (TIMM_CONFIG_FILE, TIMM_WEIGHTS_FILE) if is_timm else (CLIP_CONFIG_FILE, CLIP_WEIGHTS_FILE)
    for name in needed:
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is no teacher folder: {name} is missing. Run the teacher_features pipeline.")
    return folder / needed[1]


def load_teacher(folder: Path, config: TeacherConfig, grid: int, *, text: bool = False) -> Teacher:
    """Load a teacher folder.

    Args:
        folder: open_clip's local layout (``open_clip_config.json``, ``open_clip_model.safetensors`` and, for a word-piece
            text tower, its tokenizer files) or timm's (``config.json``, ``model.safetensors``).
        config: how many layers, which normalisation.
        grid: patches along a side of the student's frame; the tower's position table is resized to it.
        text: keep the text tower too, if there is one; distillation does not need it.

    Raises:
        CheckpointError: the folder is not complete or its files cannot be read.
        ConfigError: the tower is no plain ViT, or has fewer blocks than ``config.layers``.
    """
    weights = teacher_weights_file(folder)
    is_timm = weights.name == TIMM_WEIGHTS_FILE
    tokenizer = None
    try:
        if is_timm:
            import timm

            model = timm.create_model(f"local-dir:{folder}", pretrained=True)
        else:
            import open_clip  # not needed by whoever has a teacher of timm's

            model = open_clip.create_model(f"local-dir:{folder}")
            tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}") if text else None
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        library = "timm" if is_timm else "open_clip"
        raise CheckpointError(f"teacher folder {folder} cannot be loaded by {library}: {error}") from error
    return Teacher(model, tokenizer, config, grid, sha256_file(weights), folder)


def save_open_clip(model: nn.Module, model_config: dict, tokenizer: object, folder: Path) -> None:
    """Write a model of open_clip, its configuration and (if it has one of its own) its tokenizer into ``folder``."""
    preprocess = {"mean": list(model.visual.image_mean), "std": list(model.visual.image_std)}  # type: ignore[union-attr, arg-type]
    write_json(folder / CLIP_CONFIG_FILE, {"model_cfg": model_config, "preprocess_cfg": preprocess})
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / CLIP_WEIGHTS_FILE, metadata={"format": "pt"})
    if hasattr(tokenizer, "save_pretrained"):
        tokenizer.save_pretrained(str(folder))
