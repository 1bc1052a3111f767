"""Unmasked Teacher training of video foundation models as a reproducible pipeline.

The package has two storeys. Downstairs (``video models masking losses features training evaluation schemas
demo_world``) is a plain PyTorch library that can be used from a notebook. Upstairs (``pipelines datasets hooks settings
tracking cli``) wires it into Kedro, MLflow and DVC. Downstairs never imports upstairs.
"""

__version__ = "0.1.0"
