"""The model registry, a view of what DVC has locked: finished models, with the numbers and answers they were judged by."""
