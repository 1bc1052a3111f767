"""The search page and its API over HTTP."""
