"""From bytes to frames: checking video files, reading frames, and views that can be recorded and replayed."""
