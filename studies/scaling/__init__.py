"""What the pipeline does on more devices and more clips than anybody here has: a model of throughput from its parts.

`python -m studies.scaling` writes docs/scaling.md and its figure.
"""
