"""HTML pages, all built the same way: ``page`` says what is to be seen, ``render`` how it looks, other modules make blocks."""
