"""Stage 1: distil the frozen image teacher into a video student."""

from umt_pipeline.pipelines.stage1.pipeline import create_pipeline

__all__ = ["create_pipeline"]
