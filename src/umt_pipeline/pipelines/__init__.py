"""The Kedro pipelines: one folder each, thin nodes over the library."""

# Run only where they are named: both `prepare` and the demo's corpus make `raw_media`.
OPTIONAL = frozenset({"prepare"})
