from __future__ import annotations

import pytest

from tests.evaluation.tiny import make_tables, make_video_text
from umt_pipeline.evaluation.encoders import VideoTextEncoder
from umt_pipeline.models.video_text import load_video_text
from umt_pipeline.serving.embedder import Embedder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Embedder:
    """A small model of videos and texts with random weights."""
    folder = tmp_path_factory.mktemp("model")
    make_video_text(folder, make_tables(folder / "media", ("train", "test")), seed=2)
    network, tokenizer = load_video_text(folder)
    return Embedder("stage2", VideoTextEncoder("model", network.eval(), tokenizer), "model/embedding")
