"""Evaluation of the trained models on held-out clips, and the report page."""

from umt_pipeline.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
