"""Fine-tuning for classification, and its test."""

from umt_pipeline.pipelines.classification.pipeline import create_pipeline

__all__ = ["create_pipeline"]
