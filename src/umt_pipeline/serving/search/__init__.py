"""Search in an index: queries, places, re-ranking, what counts as found, and how good it is."""
