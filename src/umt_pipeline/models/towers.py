"""Image towers of open_clip and timm behind one face: tokens of chosen blocks, importance, projection, image embedding.

Shapes: F frames, S side of a frame in pixels, X prefix tokens (class and register tokens), N patches per frame, J = X + N
tokens, W tower width, K chosen blocks, C output width.

Blocks are run by the libraries' own ``forward_intermediates``; what is added is the one row of attention that the mask is
drawn from, read at the last block by a hook.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import AttentionPoolLatent, PatchEmbed
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from umt_pipeline.compute.precision import full_precision
from umt_pipeline.core.errors import ConfigError
from umt_pipeline.masking import Importance
from umt_pipeline.models.flops import TowerSize
from umt_pipeline.models.importance import can_read, class_attention, pool_attention, token_norm
from umt_pipeline.models.packed_attention import PackedAttention
from umt_pipeline.video.pixels import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    # Imported where a model of it is given: whoever has a teacher of timm's need not have open_clip.
    from open_clip.transformer import VisionTransformer as OpenClipViT

Statistics = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class TowerOutput:
    """What one run over a batch of frames gives.

    Attributes:
        layers_KFNW: K tensors [F, N, W], raw outputs of the chosen blocks without prefix tokens; views, not copies.
        importance_FN: how much each patch matters, float32, positive, on any scale; :attr:`Tower.importance` says what it
            was read from.
        prefix_FXW: the last block's class and register tokens.
    """

    layers_KFNW: tuple[Tensor, ...]
    importance_FN: Tensor
    prefix_FXW: Tensor


class Tower(nn.Module, ABC):
    """One image tower, its position table fitted to a grid.

    Attributes:
        depth: number of blocks.
        patch_size: side of a patch in pixels.
        output_dim: C.
        importance: what the importance of a patch is read from.
        statistics: mean and standard deviation of the input that the tower was trained with.
        blocks: its blocks.
        size: what its cost is counted from; None: nobody has counted this kind of tower.
    """

    depth: int
    blocks: list[nn.Module]
    patch_size: int
    output_dim: int
    importance: Importance
    statistics: Statistics
    size: TowerSize | None = None

    @abstractmethod
    def forward(self, frames_F3SS: Tensor, layers: list[int]) -> TowerOutput:
        """Run all blocks.

        Args:
            frames_F3SS: frames of the size that the grid needs.
            layers: indices of the chosen blocks, ascending; the last block is among them.
        """

    @abstractmethod
    def project(self, tokens: Tensor) -> Tensor:
        """Turn raw tokens [..., W] into outputs [..., C]: final norm, and the projection if it applies to single tokens."""

    @abstractmethod
    def embed(self, prefix_FXW: Tensor, patches_FNW: Tensor) -> Tensor:
        """Return the tower's own image embedding of the last block's raw tokens."""

    def _watch(self, attn: nn.Module, source: str) -> None:
        # Remembers what the last block's attention is given: the tokens after its norm, and rotary positions.
        if not can_read(attn):
            raise ConfigError(
                f"teacher.source {source!r}: the class token's attention cannot be read from {type(attn).__module__}."
                f"{type(attn).__name__}; expected a plain softmax attention of open_clip or timm. Choose another tower"
            )
        self._last_input: tuple[nn.Module, Tensor, Tensor | None] | None = None
        attn.register_forward_pre_hook(self._remember, with_kwargs=True)

    def _remember(self, attn: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._last_input = (attn, args[0], kwargs.get("rope"))

    def _class_attention(self, prefix: int) -> Tensor:
        assert self._last_input is not None, "the last block has not run"
        given, self._last_input = self._last_input, None
        return class_attention(*given, prefix)


class OpenClipTower(Tower):
    """open_clip's own ViT, whose image embedding is its class token or the mean of its patches."""

    def __init__(self, visual: OpenClipViT, source: str, grid: int) -> None:
        super().__init__()
        if visual.attn_pool is not None or visual.pool_type not in ("tok", "avg"):
            raise ConfigError(
                f"teacher.source {source!r}: expected a ViT whose image embedding is its class token or the mean of its "
                f"patches, found open_clip's pooling {visual.pool_type!r} behind {type(visual.attn_pool).__name__} (CoCa)"
            )
        self.visual = visual
        self.blocks = list(visual.transformer.resblocks)
        self.depth = len(self.blocks)
        self.patch_size = _square(source, visual.patch_size)
        self.output_dim = int(visual.output_dim)
        self.statistics = _statistics(visual)
        self.size = TowerSize.of_module(visual)
        # Where the embedding is the patches' mean, the class token is read by nobody and its attention means nothing.
        self.importance = "class_attention" if visual.pool_type == "tok" else "token_norm"
        _keep_stream_exact(visual.conv1)
        for block in visual.transformer.resblocks:
            PackedAttention.take_over(block.attn)
        if self.importance == "class_attention":
            self._watch(visual.transformer.resblocks[-1].attn, source)
        table = _resize_positions(visual.positional_embedding, visual.grid_size, grid)
        visual.positional_embedding = nn.Parameter(table)

    def forward(self, frames_F3SS: Tensor, layers: list[int]) -> TowerOutput:
        found = self.visual.forward_intermediates(
            frames_F3SS, indices=layers, intermediates_only=True, output_fmt="NLC", output_extra_tokens=True
        )
        patches = tuple(found["image_intermediates"])
        attended = self.importance == "class_attention"
        importance_FN = self._class_attention(prefix=1) if attended else token_norm(patches[-1])
        return TowerOutput(patches, importance_FN, found["image_intermediates_prefix"][-1])

    def project(self, tokens: Tensor) -> Tensor:
        # The paper's ``ln_post`` and ``proj``.
        return self.visual.ln_post(tokens) @ self.visual.proj

    def embed(self, prefix_FXW: Tensor, patches_FNW: Tensor) -> Tensor:
        if self.visual.pool_type == "tok":
            return self.project(prefix_FXW[:, 0])
        if self.visual.final_ln_after_pool:
            return self.project(patches_FNW.mean(dim=1))
        return self.visual.ln_post(patches_FNW).mean(dim=1) @ self.visual.proj


class TimmTower(Tower):
    """A ViT of timm, alone or inside an open_clip model.

    Its tokens are projected only where the image embedding is one token or a mean of tokens. An attention pool stands
    between tokens and embedding: there the outputs are the tokens after the final norm.

    Args:
        trunk: the ViT.
        head: what open_clip puts behind it.
        statistics: of the input that it was trained with.
        source: for messages.
        grid: patches along a side.
    """

    def __init__(self, trunk: TimmViT | Eva, head: nn.Module, statistics: Statistics, source: str, grid: int) -> None:
        super().__init__()
        embed = trunk.patch_embed
        if type(embed) is not PatchEmbed or embed.dynamic_img_pad or any(name == "pool" for name, _ in head.named_children()):
            raise ConfigError(
                f"teacher.source {source!r}: expected a plain ViT that cuts frames into patches by one convolution, found "
                f"a hybrid: patches from {type(embed).__name__}, head {type(head).__name__}"
            )
        _keep_stream_exact(embed.proj)
        self.trunk: Any = trunk  # the two classes have more in common than their types say
        self.head = head
        self.statistics = statistics
        self.blocks = list(trunk.blocks)
        self.depth = len(self.blocks)
        self.patch_size = _square(source, embed.patch_size)
        self.prefix = int(trunk.num_prefix_tokens)
        if trunk.cls_token is not None:
            # Also where timm pools the mean by default: DINO's class tokens are trained all the same.
            self.importance = "class_attention"
            self._watch(getattr(trunk.blocks[-1], "attn", trunk.blocks[-1]), source)
        else:
            pooled = isinstance(trunk.attn_pool, AttentionPoolLatent)
            self.importance = "pool_attention" if pooled else "token_norm"
        # timm's resize of the position table is bicubic with antialiasing; rotary positions follow the grid.
        trunk.set_input_size(img_size=(grid * self.patch_size, grid * self.patch_size))
        self.output_dim = self.project(next(trunk.parameters()).new_zeros(1, trunk.embed_dim)).shape[-1]
        self.size = TowerSize.of_timm(trunk, self.output_dim) if type(head) is nn.Identity else None

    def forward(self, frames_F3SS: Tensor, layers: list[int]) -> TowerOutput:
        has_prefix = self.prefix > 0
        found = self.trunk.forward_intermediates(
            frames_F3SS, indices=layers, return_prefix_tokens=has_prefix, intermediates_only=True, output_fmt="NLC"
        )
        patches = tuple(tokens[0] for tokens in found) if has_prefix else tuple(found)
        last_FNW = patches[-1]
        prefix_FXW = found[-1][1] if has_prefix else last_FNW[:, :0]
        if self.importance == "class_attention":
            importance_FN = self._class_attention(self.prefix)
        elif self.importance == "pool_attention":
            # An Eva pool reads register tokens too, a ViT's only if told so.
            reads_prefix = has_prefix and getattr(self.trunk, "pool_include_prefix", True)
            tokens = torch.cat((prefix_FXW, last_FNW), dim=1) if reads_prefix else last_FNW
            importance_FN = pool_attention(self.trunk.attn_pool, self.trunk.norm(tokens), self.prefix if reads_prefix else 0)
        else:
            importance_FN = token_norm(last_FNW)
        return TowerOutput(patches, importance_FN, prefix_FXW)

    def project(self, tokens: Tensor) -> Tensor:
        tokens = self.trunk.norm(tokens)
        if self.trunk.attn_pool is not None:
            return tokens
        return self.head(self.trunk.head(self.trunk.fc_norm(tokens)))

    def embed(self, prefix_FXW: Tensor, patches_FNW: Tensor) -> Tensor:
        tokens_FJW = torch.cat((prefix_FXW, patches_FNW), dim=1)
        return self.head(self.trunk.forward_head(self.trunk.norm(tokens_FJW)))


def make_tower(model: nn.Module, source: str, grid: int) -> Tower:
    """Return the image tower of an open_clip model, or a timm model itself, its positions fitted to a grid.

    Args:
        model: an open_clip model (its ``visual`` is the tower) or a timm model.
        source: for messages.
        grid: patches along a side of the student's frame.

    Raises:
        ConfigError: the tower is no plain ViT.
    """
    visual: Any = getattr(model, "visual", model)
    trunk: Any = visual
    if type(visual).__module__.partition(".")[0] == "open_clip":
        from open_clip.timm_model import TimmModel
        from open_clip.transformer import VisionTransformer

        if isinstance(visual, VisionTransformer):
            return OpenClipTower(visual, source, grid)
        if isinstance(visual, TimmModel):
            trunk = visual.trunk
            if isinstance(trunk, TimmViT | Eva):
                return TimmTower(trunk, visual.head, _statistics(visual), source, grid)
    elif isinstance(trunk, TimmViT | Eva):
        published: Any = trunk.pretrained_cfg
        statistics = (tuple(published["mean"]), tuple(published["std"]))
        return TimmTower(trunk, nn.Identity(), statistics, source, grid)
    raise ConfigError(
        f"teacher.source {source!r}: expected a ViT (open_clip's own VisionTransformer, or timm's VisionTransformer or Eva), "
        f"found {type(trunk).__module__}.{type(trunk).__name__}, which has no tokens of one size in all blocks"
    )


class _ExactConv(nn.Conv2d):
    """A convolution in float32 inside of autocast."""

    def forward(self, input: Tensor) -> Tensor:
        with full_precision(input.device):
            return super().forward(input.float())


def _keep_stream_exact(embed: nn.Module) -> None:
    """Make a tower's patch embedding float32 in place, and with it the residual stream.

    open_clip's towers give position table and class token the type of the patches' embedding: under autocast all blocks would
    add to a stream in bf16, and round it each time.
    """
    if type(embed) is nn.Conv2d:
        embed.__class__ = _ExactConv


def _statistics(visual: nn.Module) -> Statistics:
    mean, std = getattr(visual, "image_mean", None), getattr(visual, "image_std", None)
    return tuple(mean or IMAGENET_MEAN), tuple(std or IMAGENET_STD)  # type: ignore[arg-type]


def _square(source: str, patch_size: tuple[int, int]) -> int:
    height, width = patch_size
    if height != width:
        raise ConfigError(f"teacher.source {source!r}: expected square patches, found {height} x {width} pixels")
    return int(height)


def _resize_positions(table: Tensor, own_grid: tuple[int, int], grid: int) -> Tensor:
    # The class token's entry is kept, the patches' part is interpolated bicubically in float32, as published.
    if tuple(own_grid) == (grid, grid):
        return table.detach().clone()
    patches = table[1:].detach().float().reshape(1, *own_grid, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat((table[:1].detach().float(), patches.permute(0, 2, 3, 1).reshape(grid * grid, -1))).to(table.dtype)
