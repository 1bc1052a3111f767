"""Questions about clips: their table, fine-tuning, and the test of answers and choices."""

from umt_pipeline.pipelines.question_answering.pipeline import create_pipeline

__all__ = ["create_pipeline"]
