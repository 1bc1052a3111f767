"""Evaluation: frozen encoders, probes, retrieval, agreement, records of protocols and the report page."""
