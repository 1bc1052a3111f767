"""The teacher of the demo world: a small CLIP that was there before any corpus is drawn, as CLIP was before anyone's videos.

It has seen every kind of thing in far more variety than any corpus has, as single frames, and no word of motion. Its card
says how it was made and what it knows; `make teacher` makes it again.
"""

from __future__ import annotations

from pathlib import Path

# Its name in `teacher_features.teacher.source`.
SOURCE = "demo"
# As open_clip reads a local folder: configuration, weights and tokenizer; and the card, README.md.
FOLDER = Path(__file__).parent / "clip"
# Of its weights.
SHA256 = "fb904c622c38ab8496f12151a4157d4773fe25dc29d1fb85ecc0c86df6ee57a9"
