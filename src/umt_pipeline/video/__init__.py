"""From bytes to frames: checking video and image files, reading frames, and views that can be recorded and replayed."""
