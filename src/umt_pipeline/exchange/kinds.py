"""What a published checkpoint file is, told by the names of its weights."""

from __future__ import annotations

from collections.abc import Iterable

from umt_pipeline.core.errors import CheckpointError

# Names that only files of one kind have, in the order in which they are looked for.
_SIGNS = (
    ("question-answering", "text_decoder."),
    ("video-text", "text_encoder."),
    ("student", "clip_decoder."),
    ("classifier", "fc_norm."),
    ("detector", "head."),
    ("encoder", "patch_embed."),
)


def published_kind(names: Iterable[str], source: str) -> str:
    """Return what :func:`umt_pipeline.exchange.convert.import_checkpoint` is to take a file for.

    Args:
        names: of the file's weights.
        source: the file, for messages.

    Raises:
        CheckpointError: it holds no model that is known.
    """
    bare = {name.removeprefix("module.").removeprefix("backbone.").removeprefix("encoder.") for name in names}
    if any(name.startswith("patch_embed.") or name.startswith("vision_encoder.") for name in bare):
        for kind, sign in _SIGNS:
            if any(name.startswith(sign) for name in bare):
                return kind
    signs = ", ".join(f"{sign}* ({kind})" for kind, sign in _SIGNS)
    shown = ", ".join(sorted(bare)[:8])
    raise CheckpointError(f"{source} is no published checkpoint that is known: expected weights named {signs}; found {shown}")
