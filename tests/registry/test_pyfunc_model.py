"""Every kind of model, registered and loaded by MLflow, says what the library says of the same folder."""

from __future__ import annotations

from pathlib import Path

import mlflow
import pandas as pd
import pytest

from tests.registry.finished import FinishedProject
from umt_pipeline.core.errors import VideoError
from umt_pipeline.registry.reading import connect
from umt_pipeline.registry.register import register
from umt_pipeline.registry.serving_settings import serving_settings
from umt_pipeline.serving.predictors import KINDS, load_predictor


@pytest.mark.slow
def test_every_kind_predicts_as_the_library_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    made = FinishedProject(tmp_path / "project", KINDS)
    monkeypatch.chdir(made.folder)
    connect(made.folder)
    assert [one.name for one in register(made.folder, None)] == [f"demo_{kind}" for kind in made.order()]
    clips = made.tables.videos[made.tables.videos["media"] == "video"]
    videos = [str(made.tables.media_root / path) for path in clips["path"]]
    table = pd.DataFrame(
        {"video": videos, "text": ["what is it", "what moves"], "timestamp_s": 0.1, "x1": 0.1, "y1": 0.1, "x2": 0.6, "y2": 0.9}
    )
    for kind in KINDS:
        loaded = mlflow.pyfunc.load_model(f"models:/demo_{kind}@challenger", model_config={"precision": "fp32"})
        settings = serving_settings(kind, made.folder, made.loader).model_dump(mode="json")
        known = load_predictor(kind, made.model(kind), settings, "fp32")
        asked = table[list(known.columns)]
        found = loaded.predict(asked)
        pd.testing.assert_frame_equal(found, known.predict(asked), check_exact=True)
        assert set(found.columns) <= set(loaded.metadata.signature.outputs.input_names())
        if list(known.columns) == ["video"]:
            pd.testing.assert_frame_equal(loaded.predict(videos), found, check_exact=True)
        with pytest.raises(VideoError, match=r"nowhere\.mp4"):
            loaded.predict(asked.assign(video=["nowhere.mp4", videos[0]]))
