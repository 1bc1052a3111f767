"""Fine-tuning for action detection, and its test."""

from umt_pipeline.pipelines.detection.pipeline import create_pipeline

__all__ = ["create_pipeline"]
