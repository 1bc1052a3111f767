"""Samples, batches, mapped tables, replacement of unreadable media, captions."""
