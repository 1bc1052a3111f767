"""The index of videos: generations of segments, searched by vectors."""
