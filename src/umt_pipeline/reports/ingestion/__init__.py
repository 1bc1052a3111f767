"""The page of an ingestion: ``content`` says what it knows, ``measure`` finds that out, ``page`` shows it.

The page is made from the content alone, which is kept as JSON beside it: whatever number is drawn can be read there.
"""
