"""The engine room: what a step is (``task``), how steps are run (``loop``), kept (``state``) and started (``launch``).

Modules are imported by their own names; nothing is re-exported here, so that
``python -m umt_pipeline.training.launch`` starts without importing itself twice.
"""
