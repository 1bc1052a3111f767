"""Stage 2: train the student with text."""

from umt_pipeline.pipelines.stage2.pipeline import create_pipeline

__all__ = ["create_pipeline"]
