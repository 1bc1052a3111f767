"""The base of every configuration object."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen configuration that refuses keys it does not know.

    A misspelt parameter is therefore an error before anything runs, not a value silently left at its default.
    Illegal combinations are refused in ``model_validator`` methods with a message that names the key to change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
