"""The commands of `umt`."""
