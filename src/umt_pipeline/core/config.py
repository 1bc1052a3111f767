"""The base of every configuration object."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen configuration that refuses keys it does not know.

    A misspelt parameter is therefore an error before anything runs, not a value silently left at its default.
    Illegal combinations are refused in ``model_validator`` methods with a message that names the key to change.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    def check_inputs(self) -> None:
        """Check what these settings name outside the project, such as a published model; by default nothing.

        Called for the parameters of all pipelines of a run before its first step: no stage is paid for in vain.

        Raises:
            UmtError: something is missing or does not fit.
        """
