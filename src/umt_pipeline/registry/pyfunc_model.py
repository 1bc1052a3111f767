"""The code of a registered model. MLflow keeps this file beside the model folder, and runs it when the model is loaded.

Annotations are values here, not texts as elsewhere: MLflow asks for the type of the input, and warns without it.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from umt_pipeline.core.files import read_json
from umt_pipeline.serving.predictors import load_predictor


class FolderModel(PythonModel):  # type: ignore[misc]  # MLflow wraps its methods
    """A model folder as :mod:`umt_pipeline.serving.predictors` loads it."""

    def load_context(self, context: PythonModelContext) -> None:
        serving = read_json(Path(context.artifacts["serving"]))
        precision = (context.model_config or {}).get("precision", "auto")
        self.predictor = load_predictor(serving["kind"], Path(context.artifacts["model"]), serving["settings"], precision)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        return self.predictor.predict(model_input)


set_model(FolderModel())
