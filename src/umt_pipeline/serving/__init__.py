"""Use of trained models: what :func:`umt_pipeline.load` returns."""
