"""Retrieval: fine-tuning a stage-2 model on captioned clips, and searching before and after it."""

from umt_pipeline.pipelines.retrieval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
