"""H.264 files of the shape of prepared Kinetics clips, for benchmarks that are given no videos.

Shapes: H W pixels, 3 colours.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

# A file of Kinetics as it is commonly prepared: ten seconds, the short side scaled down.
FILES, FRAMES, FPS, HEIGHT, WIDTH = 8, 250, 25, 256, 340


def draw_files(media: Path, files: int = FILES) -> None:
    """Write H.264 files of the size of prepared Kinetics clips: textures that pan, with other textures moving over them."""
    import av

    media.mkdir(parents=True)
    for number in range(files):
        with av.open(str(media / f"{number:02d}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=FPS, options={"preset": "faster", "crf": "23"})
            stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
            for picture_HW3 in moving_textures(number):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture_HW3, format="rgb24")))
            container.mux(stream.encode(None))


def moving_textures(seed: int) -> Iterator[np.ndarray]:
    """Yield the frames uint8 [H,W,3] of one file."""
    rng = np.random.default_rng(seed)
    margin, disc = 64, 96
    background = texture(rng, HEIGHT + 2 * margin, WIDTH + 2 * margin)
    objects = [texture(rng, disc, disc) for _ in range(3)]
    inside = np.hypot(*(np.mgrid[:disc, :disc] - disc / 2)) < disc / 2
    phases = rng.uniform(0, 2 * np.pi, (4, 2))
    for number in range(FRAMES):
        # Each thing swings along its own ellipse, once or twice in the file.
        swing = np.sin(phases + 2 * np.pi * number / FRAMES * np.array([[1], [2], [1], [2]]))
        top, left = (margin * (1 + swing[0])).astype(int)
        picture = background[top : top + HEIGHT, left : left + WIDTH].copy()
        for place, thing in zip(swing[1:], objects, strict=True):
            y, x = ((1 + place) / 2 * (HEIGHT - disc, WIDTH - disc)).astype(int)
            picture[y : y + disc, x : x + disc][inside] = thing[inside]
        grain = rng.normal(0.0, 2.0, picture.shape[:2])[..., None]
        yield (picture + grain).clip(0, 255).astype(np.uint8)


def texture(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return colours float32 [H,W,3] whose detail falls with its frequency, as in photographs."""
    total = np.zeros((height, width, 3), np.float32)
    for cell in (64, 32, 16, 8, 4, 2):
        coarse = rng.normal(size=(3, 1, -(-height // cell) + 1, -(-width // cell) + 1)).astype(np.float32)
        fine = torch.nn.functional.interpolate(torch.from_numpy(coarse), scale_factor=cell, mode="bilinear")
        total += fine[:, 0, :height, :width].permute(1, 2, 0).numpy() * cell**0.75
    return 128 + 50 * total / total.std()
