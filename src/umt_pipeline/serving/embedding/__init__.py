"""Vectors of the windows of videos: what is in a folder, which frames of it are wanted, what is kept of earlier runs."""
