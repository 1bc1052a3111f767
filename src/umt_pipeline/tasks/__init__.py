"""The downstream tasks, a folder each: model, training, testing, page."""
