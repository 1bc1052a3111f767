"""Get the frozen teacher, then record its targets for several views of each clip."""

from umt_pipeline.pipelines.teacher_features.pipeline import create_pipeline

__all__ = ["create_pipeline"]
