"""Vectors of the windows of files, in generations that never change, and what is nearest to a query."""
