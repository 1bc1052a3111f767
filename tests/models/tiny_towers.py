"""Small random image towers of every kind that can teach, made by the libraries themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import open_clip
import timm
import torch
from torch import nn

TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}


def shaken(make: Callable[[], nn.Module], std: float = 0.2) -> nn.Module:
    """Add noise to all weights: fresh towers attend almost evenly and have zero class tokens, which would hide errors."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = make()
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=std)
    return model.eval()


def own(**vision: Any) -> nn.Module:
    """Return a CLIP with open_clip's own ViT, 3 blocks, 32 pixels in patches of 8."""
    settings = {"image_size": 32, "layers": 3, "width": 16, "head_width": 8, "patch_size": 8, **vision}
    clip = shaken(lambda: open_clip.CLIP(embed_dim=12, vision_cfg=settings, text_cfg=TEXT))
    clip.visual.image_mean, clip.visual.image_std = (0.5, 0.4, 0.3), (0.25, 0.2, 0.3)
    return clip


def inside(name: str, width: int, **vision: Any) -> nn.Module:
    """Return an open_clip model whose image tower is one of timm's small test models (160 pixels in patches of 16)."""
    settings = {"image_size": 160, "timm_model_name": name, **vision}
    clip = shaken(lambda: open_clip.CustomTextCLIP(embed_dim=width, vision_cfg=settings, text_cfg=TEXT), std=0.05)
    clip.visual.image_mean = clip.visual.image_std = (0.5, 0.5, 0.5)
    return clip


def alone(name: str, **changes: Any) -> nn.Module:
    """Return a small version of a ViT of timm, 3 blocks, 3x3 patches."""
    size = 3 * int(name.partition("patch")[2][:2])
    settings = {"img_size": size, "depth": 3, "embed_dim": 32, "num_heads": 2, "num_classes": 0, **changes}
    return shaken(lambda: timm.create_model(name, **settings))


CLASS, POOL, NORM = "class_attention", "pool_attention", "token_norm"
# Name -> how it is made, what its importance is read from, its own grid.
TOWERS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "openai": (lambda: own(), CLASS, 4),
    "clipa": (lambda: own(pool_type="avg", final_ln_after_pool=True, no_ln_pre=True), NORM, 4),
    "mean of norms": (lambda: own(pool_type="avg"), NORM, 4),
    "norm of queries and keys": (lambda: own(qk_norm=True), CLASS, 4),
    "siglip in open_clip": (lambda: inside("test_vit3", 96, timm_pool="map", timm_proj="none"), POOL, 10),
    "class token in open_clip": (lambda: inside("test_vit", 24, timm_pool="token", timm_proj=""), CLASS, 10),
    "mean in open_clip": (lambda: inside("test_vit2", 24, timm_pool="avg", timm_proj="linear"), NORM, 10),
    "siglip": (lambda: alone("vit_base_patch16_siglip_224"), POOL, 3),
    "siglip without pool": (lambda: alone("vit_base_patch16_siglip_gap_224"), NORM, 3),
    "dinov2": (lambda: alone("vit_small_patch14_dinov2"), CLASS, 3),
    "dinov2 with registers": (lambda: alone("vit_small_patch14_reg4_dinov2"), CLASS, 3),
    "dinov3": (lambda: alone("vit_small_patch16_dinov3"), CLASS, 3),
    "eva02": (lambda: alone("eva02_base_patch14_224"), CLASS, 3),
    "perception encoder": (lambda: alone("vit_pe_core_base_patch16_224"), CLASS, 3),
    "learnt rotations": (lambda: alone("vit_small_patch16_rope_mixed_224"), CLASS, 3),
    "grouped queries": (
        lambda: alone("vit_base_patch16_sapiens2", num_heads=4, num_kv_heads=2, qkv_fused=False),
        CLASS,
        3,
    ),
    "post-norm": (lambda: alone("vit_base_patch16_rpn_224", class_token=True, global_pool="token"), CLASS, 3),
}
