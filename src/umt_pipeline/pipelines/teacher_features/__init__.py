"""Get the frozen teacher, then record what it says about V views of each clip."""

from umt_pipeline.pipelines.teacher_features.pipeline import create_pipeline

__all__ = ["create_pipeline"]
