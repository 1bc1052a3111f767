"""HTML pages, all built the same way."""
