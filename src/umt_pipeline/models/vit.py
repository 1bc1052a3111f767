"""The video encoder: a plain ViT, by default with joint space-time attention; no class token, no temporal down-sampling.

Shapes: B clips, T frames, N patches per frame, V visible tokens per clip (V = T * N without a mask), A = T * N positions of a
whole clip, P values per patch, D width, d width of a head, K returned layers. A token's position is its index in the (t, h, w)
raster of all patches.

Source: UMT section 3.1 and the published code's choices: pre-norm blocks, LayerNorm eps 1e-6, exact GELU, query and value
biases but no key bias, fixed sinusoid positions over the flattened index.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from umt_pipeline.core.config import Config
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.models.attention import attend
from umt_pipeline.video.pixels import normalise_patches, patchify

Positions = Literal["interpolated", "first", "own"]
AttentionKind = Literal["joint", "frame"]

NORM_EPS = 1e-6


class ViTConfig(Config):
    """Size of a video encoder. UMT-B/16 is 224, 16, 8, 768, 12, 12; UMT-L/16 is 224, 16, 8, 1024, 24, 16.

    ``position_frames`` and ``position_image_size`` are the clip size for which the position table is written down, if it
    is not this encoder's own: the table is then interpolated, as published models fine-tuned at 16 frames or 384 pixels
    do with that of 8 frames and 224 pixels.

    ``attention`` is ``joint`` over the whole clip, as published, or within each ``frame``: cheaper, and blind to motion.
    """

    image_size: int
    patch_size: int
    frames: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    drop_path: float = 0.0
    position_frames: int | None = None
    position_image_size: int | None = None
    attention: AttentionKind = "joint"

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name in ("image_size", "position_image_size"):
            size = getattr(self, name)
            if size is not None and size % self.patch_size:
                raise ValueError(f"{name} {size} is not a multiple of patch_size {self.patch_size}")
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self

    @property
    def grid(self) -> int:
        """Patches along one side of a frame."""
        return self.image_size // self.patch_size

    @property
    def position_size(self) -> tuple[int, int]:
        """Frames, and patches along a side, of the clip for which the position table is written down."""
        return self.position_frames or self.frames, (self.position_image_size or self.image_size) // self.patch_size

    def for_clips(
        self, frames: int, image_size: int, *, drop_path: float | None = None, positions: Positions = "interpolated"
    ) -> Self:
        """Return the same encoder for another clip size.

        Args:
            frames: of a clip.
            image_size: side of a frame in pixels.
            drop_path: largest stochastic depth; None: as it is.
            positions: ``interpolated`` from those that were trained with; ``first``: the same, but a shorter clip takes the
                first frames' as they are; ``own``: a table of the clip's own size, for an encoder that starts from scratch.

        Raises:
            ConfigError: the patches do not fit the frames.
        """
        if image_size % self.patch_size:
            raise ConfigError(
                f"clips of {image_size} pixels (view.size or clip.size) cannot be cut into the encoder's patches of "
                f"{self.patch_size} pixels: choose a multiple"
            )
        known_frames, known_grid = (frames, image_size // self.patch_size) if positions == "own" else self.position_size
        if positions == "first":
            known_frames = min(known_frames, frames)
        known_size = known_grid * self.patch_size
        changes = {
            "frames": frames,
            "image_size": image_size,
            "drop_path": self.drop_path if drop_path is None else drop_path,
            "position_frames": None if known_frames == frames else known_frames,
            "position_image_size": None if known_size == image_size else known_size,
        }
        return type(self).model_validate({**self.model_dump(), **changes})

    @property
    def patches_per_frame(self) -> int:
        """N."""
        return self.grid**2

    @property
    def patch_values(self) -> int:
        """P."""
        return 3 * self.patch_size**2


def sinusoid_table(num_positions: int, dim: int) -> Tensor:
    """Return the fixed position table [num_positions, dim] of the published code: one flattened index, even sin, odd cos."""
    position_A1 = torch.arange(num_positions, dtype=torch.float64).unsqueeze(1)
    pair_D = torch.arange(dim, dtype=torch.float64).div(2, rounding_mode="floor").mul(2)
    angle_AD = position_A1 / torch.pow(torch.tensor(10000.0, dtype=torch.float64), pair_D / dim)
    table_AD = torch.where(torch.arange(dim) % 2 == 0, angle_AD.sin(), angle_AD.cos())
    return table_AD.float()


def position_table(
    dim: int, trained_frames: int, trained_grid: int, frames: int, rows: int, columns: int | None = None
) -> Tensor:
    """Return the position table [frames * rows * columns, dim] for a clip size that may differ from the trained one.

    Args:
        dim: D.
        trained_frames: of the clips that the table is written down for.
        trained_grid: patches along a side of their square frames.
        frames: of the wanted clips.
        rows: patches along the height of their frames.
        columns: patches along the width; None: as many as rows.

    A single frame (an image) takes the first frame's positions. Another grid is reached by bicubic interpolation within
    each frame, another number of frames by linear interpolation in time, as the published fine-tuning does.
    """
    columns = rows if columns is None else columns
    if frames == 1:
        table = sinusoid_table(trained_grid**2, dim)
        trained_frames = 1
    else:
        table = sinusoid_table(trained_frames * trained_grid**2, dim)
    if (rows, columns) != (trained_grid, trained_grid):
        table = table.reshape(trained_frames, trained_grid, trained_grid, dim).permute(0, 3, 1, 2)
        table = F.interpolate(table, size=(rows, columns), mode="bicubic", align_corners=False)
        table = table.permute(0, 2, 3, 1).reshape(trained_frames * rows * columns, dim)
    if frames != trained_frames:
        table = table.reshape(trained_frames, rows * columns, dim).permute(1, 2, 0)
        table = F.interpolate(table, size=frames, mode="linear", align_corners=False)
        table = table.permute(2, 0, 1).reshape(frames * rows * columns, dim)
    return table


class Attention(nn.Module):
    """Multi-head self-attention with learned query and value biases and no key bias."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(dim))
        self.v_bias = nn.Parameter(torch.zeros(dim))
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BVD: Tensor) -> Tensor:
        """Return attended tokens [B, V, D]."""
        B, V, D = x_BVD.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x_BVD, self.qkv.weight, bias).reshape(B, V, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = attend(q, k, v)
        return self.proj(attended.transpose(1, 2).reshape(B, V, D))


class Mlp(nn.Module):
    """Two linear layers with exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x_BVD: Tensor) -> Tensor:
        """Return [B, V, D]."""
        return self.fc2(F.gelu(self.fc1(x_BVD)))


def _drop_path(share: float) -> nn.Module:
    if share == 0.0:
        return nn.Identity()
    # Imported where it is needed: timm brings torchvision and torch's compiler, which take two seconds.
    from timm.layers import DropPath

    return DropPath(share)


class Block(nn.Module):
    """A pre-norm transformer block with stochastic depth."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = _drop_path(drop_path)

    def forward(self, x_BVD: Tensor) -> Tensor:
        """Return [B, V, D]."""
        x_BVD = x_BVD + self.drop_path(self.attn(self.norm1(x_BVD)))
        return x_BVD + self.drop_path(self.mlp(self.norm2(x_BVD)))


class VideoViT(nn.Module):
    """The video encoder. It computes only the tokens that it is given: hidden patches cost nothing, not even embedding.

    Attributes:
        recompute_blocks: so many first blocks keep only their input for the backward pass and run again there (the
            published ``checkpoint_num``): same numbers, less memory, up to a third more arithmetic.
    """

    positions_AD: Tensor

    def __init__(self, config: ViTConfig, *, final_norm: bool = True) -> None:
        """Build the encoder with the published pre-training initialisation.

        Args:
            config: sizes.
            final_norm: whether the last block's tokens are normed; a classifier norms their mean instead.
        """
        super().__init__()
        self.config = config
        self.recompute_blocks = 0
        # Position tables of clips of other sizes, made once: computing one per step would wait for the device.
        self._tables: dict[tuple[tuple[int, ...], torch.device, torch.dtype], Tensor] = {}
        self.patch_embed = nn.Linear(config.patch_values, config.dim)
        rates = [config.drop_path * index / max(config.depth - 1, 1) for index in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, config.mlp_ratio, rate) for rate in rates)
        self.norm: nn.Module = nn.LayerNorm(config.dim, eps=NORM_EPS) if final_norm else nn.Identity()
        table = position_table(config.dim, *config.position_size, config.frames, config.grid)
        self.register_buffer("positions_AD", table, persistent=False)
        self.apply(_init_weights)
        # The published patch embedding is a convolution left at PyTorch's default, which is the default of nn.Linear too.
        self.patch_embed.reset_parameters()

    def positions(self, visible_BV: Tensor, clip_size: tuple[int, ...] | None = None) -> Tensor:
        """Return the position vectors [B, V, D] of the visible tokens.

        Args:
            visible_BV: positions in the raster of the clip.
            clip_size: (frames, patches along a side) where they differ from the trained ones; (frames, patches along the
                height, patches along the width) where frames are not square.
        """
        table_AD = self.positions_AD
        if clip_size is not None and clip_size != (self.config.frames, self.config.grid):
            key = (clip_size, table_AD.device, table_AD.dtype)
            if key not in self._tables:
                self._tables[key] = position_table(self.config.dim, *self.config.position_size, *clip_size).to(table_AD)
            table_AD = self._tables[key]
        return table_AD[visible_BV]

    def forward_layers(
        self,
        patches_BVP: Tensor,
        visible_BV: Tensor,
        layers: Sequence[int],
        clip_size: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode visible patches and return chosen block outputs too.

        Args:
            patches_BVP: normalised patches.
            visible_BV: their positions, int64; with attention within frames as many in each frame, frame by frame.
            layers: block indices, ascending.
            clip_size: see :meth:`positions`.

        Returns:
            Tokens [B, V, D] after the last block and the final norm, and [K, B, V, D]: the chosen blocks' outputs, each
            after the same final norm (the published code shares it).
        """
        x_BVD = self.patch_embed(patches_BVP) + self.positions(visible_BV, clip_size).to(patches_BVP.dtype)
        size = x_BVD.shape
        if self.config.attention == "frame":
            frames = self.config.frames if clip_size is None else clip_size[0]
            x_BVD = x_BVD.unflatten(1, (frames, -1)).flatten(0, 1)  # each frame a sequence of its own
        chosen = []
        for index, block in enumerate(self.blocks):
            if index < self.recompute_blocks and torch.is_grad_enabled():
                # The random state is kept for stochastic depth, which must drop the same clips the second time.
                seeded = self.config.drop_path > 0.0
                x_BVD = checkpoint(block, x_BVD, use_reentrant=False, preserve_rng_state=seeded)
            else:
                x_BVD = block(x_BVD)
            if index in layers:
                chosen.append(x_BVD)
        tokens_BVD = self.norm(x_BVD).reshape(size)
        if not chosen:
            return tokens_BVD, tokens_BVD.new_empty((0, *size))
        return tokens_BVD, self.norm(torch.stack(chosen)).reshape(-1, *size)

    def forward(self, patches_BVP: Tensor, visible_BV: Tensor, clip_size: tuple[int, ...] | None = None) -> Tensor:
        """Encode visible patches; return tokens [B, V, D] after the final norm."""
        return self.forward_layers(patches_BVP, visible_BV, (), clip_size)[0]


def every_patch(patches_BVP: Tensor) -> Tensor:
    """Return the indices [1, V] of clips of which every patch is seen, int64: one row, which stands for the whole batch."""
    return torch.arange(patches_BVP.shape[1], device=patches_BVP.device).unsqueeze(0)


def all_patches(frames_BTHWC: Tensor, config: ViTConfig) -> tuple[Tensor, Tensor]:
    """Return normalised patches [B, V, P] of uint8 frames, and their indices [1, V]: nothing is hidden."""
    patches_BVP = normalise_patches(patchify(frames_BTHWC, config.patch_size))
    return patches_BVP, every_patch(patches_BVP)


def init_for_fine_tuning(module: nn.Module) -> None:
    """Initialise one linear layer as the published fine-tuning does: truncated normal, deviation 0.02."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _init_weights(module: nn.Module) -> None:
    # The published pre-training initialisation.
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
