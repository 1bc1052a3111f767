"""Text-video retrieval: a stage-2 model fine-tuned on captioned clips."""
