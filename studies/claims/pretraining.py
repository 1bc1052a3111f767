"""Pre-training of the study: the student learns the teacher's tokens at the visible patches, or the hidden pixels.

Shapes: B clips, T frames (or tubelets), N patches per frame, V visible tokens, H hidden tokens, P values per patch, D width,
K aligned layers, C teacher output width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from safetensors.torch import save_file
from torch import Tensor, nn

from studies.claims.bank import ClipBank, study_code, unit_mean
from studies.claims.encoders import ClipEncoder, EncoderSize
from studies.claims.inputs import InputConfig, cut, uniform
from umt_pipeline.core.config import Config
from umt_pipeline.data.samples import Batch, SampleDataset
from umt_pipeline.losses import alignment_loss
from umt_pipeline.masking import MaskConfig, draw_visible
from umt_pipeline.models.alignment import aligned_layers
from umt_pipeline.models.folders import WEIGHTS_FILE
from umt_pipeline.models.heads import AlignmentHeads
from umt_pipeline.models.vit import NORM_EPS, AttentionKind, Block
from umt_pipeline.training.spec import RunSpec
from umt_pipeline.training.task import LossParts, Task
from umt_pipeline.video.pixels import normalise_patches

_VIEW_STREAM, _MASK_STREAM = 0, 1


class PretrainingConfig(Config):
    """One way to pre-train.

    Attributes:
        objective: ``alignment`` with the teacher's tokens at the visible patches (UMT), or reconstruction of the hidden
            ``pixels`` (VideoMAE).
        attention: over the whole clip, or within frames.
        clip: frames.
        mask: which patches are visible.
        layers: aligned last blocks.
    """

    objective: Literal["alignment", "pixels"] = "alignment"
    attention: AttentionKind = "joint"
    clip: InputConfig = InputConfig()
    mask: MaskConfig = MaskConfig()
    layers: int = Field(2, ge=1)


class BankViews(SampleDataset):
    """Random views of a bank's clips with their masks and the teacher's tokens at the visible patches."""

    def __init__(self, bank: ClipBank, split: str, config: PretrainingConfig, seed: int) -> None:
        self._bank, self._config, self._seed = bank, config, seed
        self._clips = bank.clips([split])

    def __len__(self) -> int:
        return len(self._clips)

    def batch(self, indices_B: np.ndarray, passes_B: np.ndarray) -> Batch:
        """See :class:`SampleDataset`: frames uint8 [B,T,S,S,3], visible int64 [B,V], targets float32 [K,B,V,C] as [B,...]."""
        bank, config = self._bank, self._config
        clip, clips_B = config.clip, self._clips[indices_B]
        draws_BT = uniform(self._seed, clips_B, passes_B, _VIEW_STREAM, clip.frames)
        rows_BT = bank.starts_I[clips_B][:, None] + clip.training_frames(bank.lengths_I[clips_B], draws_BT)
        attention_BTN = torch.from_numpy(bank.attention_FN[rows_BT]).float()
        attention_BTN = attention_BTN.unflatten(1, (clip.moments, clip.tubelet)).mean(dim=2)
        moments, patches = attention_BTN.shape[1:]
        noise_BP = uniform(self._seed, clips_B, passes_B, _MASK_STREAM, moments * patches)
        visible_BV = draw_visible(config.mask, torch.from_numpy(noise_BP).unflatten(1, (moments, patches)), attention_BTN)
        batch: Batch = {"frames": bank.frames_FSSC[rows_BT], "visible": visible_BV, "clip": clips_B.tolist()}
        if config.objective == "alignment":
            batch["targets"] = self._targets(rows_BT, visible_BV, patches)
        return batch

    def _targets(self, rows_BT: np.ndarray, visible_BV: Tensor, patches: int) -> Tensor:
        tubelet = self._config.clip.tubelet
        visible = visible_BV.numpy()
        moment_BV, patch_BV = visible // patches, visible % patches
        stored = self._bank.tokens_FKNC
        layers = range(stored.shape[1] - self._config.layers, stored.shape[1])
        # One gather per layer and frame of a tubelet: only what is visible leaves the mapped file.
        frames_uBV = [np.take_along_axis(rows_BT, moment_BV * tubelet + frame, axis=1) for frame in range(tubelet)]
        tokens_uBVKC = [
            np.stack([stored[rows_BV, layer, patch_BV] for layer in layers], axis=2) for rows_BV in frames_uBV
        ]
        if tubelet == 1:
            return torch.from_numpy(tokens_uBVKC[0])
        return unit_mean(torch.from_numpy(np.stack(tokens_uBVKC)), dim=0)


class AlignedStudent(nn.Module):
    """Encoder and alignment heads; see :class:`umt_pipeline.models.student.Student`."""

    def __init__(self, encoder: ClipEncoder, layers: int, target_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.layers = aligned_layers(encoder.vit.config.depth, layers)
        self.heads = AlignmentHeads(layers, encoder.dim, target_dim)

    def forward(self, patches_BVP: Tensor, visible_BV: Tensor) -> Tensor:
        """Return unit vectors [K, B, V, C]."""
        _, layers_KBVD = self.encoder.forward_layers(patches_BVP, visible_BV, self.layers)
        return self.heads(layers_KBVD, self.encoder.positions(visible_BV))


class PixelStudent(nn.Module):
    """Encoder and a light decoder of the hidden patches' pixels, as VideoMAE has it: half the width, two blocks."""

    def __init__(self, encoder: ClipEncoder, patch_values: int) -> None:
        super().__init__()
        dim = encoder.dim // 2
        self.encoder = encoder
        self.embed = nn.Linear(encoder.dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        self.positions = nn.Linear(encoder.dim, dim, bias=False)
        self.blocks = nn.ModuleList(Block(dim, max(1, dim // 32), 4.0, 0.0) for _ in range(2))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.head = nn.Linear(dim, patch_values)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, patches_BVP: Tensor, visible_BV: Tensor, hidden_BH: Tensor) -> Tensor:
        """Return predicted values [B, H, P] of the hidden patches."""
        seen_BVD = self.embed(self.encoder(patches_BVP, visible_BV)) + self.positions(self.encoder.positions(visible_BV))
        asked_BHD = self.mask_token + self.positions(self.encoder.positions(hidden_BH))
        x_BLD = torch.cat((seen_BVD, asked_BHD), dim=1)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return self.head(self.norm(x_BLD[:, seen_BVD.shape[1] :]))


class PretrainingTask(Task):
    """One way to pre-train, on a bank."""

    def __init__(self, bank: ClipBank, split: str, size: EncoderSize, config: PretrainingConfig, seed: int) -> None:
        self._config, self._patch_size = config, bank.patch_size
        self._dataset = BankViews(bank, split, config, seed)
        encoder = ClipEncoder(size, bank.size, bank.patch_size, config.clip, config.attention)
        if config.objective == "alignment":
            self.model: nn.Module = AlignedStudent(encoder, config.layers, int(bank.tokens_FKNC.shape[-1]))
        else:
            self.model = PixelStudent(encoder, config.clip.tubelet * 3 * bank.patch_size**2)

    def dataset(self) -> BankViews:
        return self._dataset

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> LossParts:
        del generator
        patches_BNP = cut(batch["frames"], self._patch_size, self._config.clip.tubelet)
        visible_BV = batch["visible"]
        seen_BVP = normalise_patches(_pick(patches_BNP, visible_BV))
        if self._config.objective == "alignment":
            return LossParts(alignment_loss(model(seen_BVP, visible_BV), batch["targets"].permute(2, 0, 1, 3)))
        hidden_BH = hidden_indices(visible_BV, patches_BNP.shape[1])
        wanted_BHP = patch_normalised(_pick(patches_BNP, hidden_BH))
        return LossParts(F.mse_loss(model(seen_BVP, visible_BV, hidden_BH).float(), wanted_BHP))

    def sample_ids(self, batch: Batch) -> Sequence[str]:
        return [str(clip) for clip in batch["clip"]]


def hidden_indices(visible_BV: Tensor, patches: int) -> Tensor:
    """Return the positions [B, H] that are not visible, ascending."""
    shown_BP = torch.zeros(len(visible_BV), patches, dtype=torch.bool, device=visible_BV.device).scatter_(1, visible_BV, True)
    return (~shown_BP).nonzero()[:, 1].reshape(len(visible_BV), -1)


def patch_normalised(patches_BHP: Tensor) -> Tensor:
    """Return patches with mean 0 and deviation 1 each, the target of VideoMAE (unbiased variance)."""
    values = patches_BHP.float() / 255.0
    return (values - values.mean(dim=-1, keepdim=True)) / (values.var(dim=-1, keepdim=True) + 1e-6).sqrt()


def _pick(patches_BNP: Tensor, index_BV: Tensor) -> Tensor:
    return patches_BNP.gather(1, index_BV.unsqueeze(-1).expand(-1, -1, patches_BNP.shape[-1]))


class PretrainingSpec(RunSpec):
    """A pre-training run of the study; its seed is that of views and masks too."""

    code: ClassVar[tuple[Path, ...]] = study_code()

    bank: Path
    split: str
    size: EncoderSize
    config: PretrainingConfig

    def build(self) -> PretrainingTask:
        return PretrainingTask(ClipBank(self.bank), self.split, self.size, self.config, self.seed)

    def inputs(self) -> dict[str, str]:
        return {"bank": self.bank.name}

    def export(self, weights: Mapping[str, Tensor], folder: Path, facts: Mapping[str, Any]) -> None:
        save_file(dict(weights), folder / WEIGHTS_FILE)
