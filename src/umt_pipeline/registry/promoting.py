"""What a promotion leaves in the registry: a verdict on the challenger's version and, if it was earned, the alias."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow.tracking import MlflowClient

from umt_pipeline.registry.names import CHAMPION
from umt_pipeline.registry.reading import Version, registry_errors

# Tags of a verdict begin with it.
GATE = "gate."


def write_verdict(version: Version, tags: Mapping[str, str]) -> None:
    """Put a verdict on a version, in place of an earlier one.

    Args:
        version: of the challenger.
        tags: names, each beginning with :data:`GATE`, and values.

    Raises:
        RegistryError: the registry cannot be written; run again, and what is missing is filled in.
    """
    with registry_errors(f"{version.name} version {version.version}, verdict"):
        client = MlflowClient()
        there = client.get_model_version(version.name, version.version).tags
        for name in there:
            if name.startswith(GATE) and name not in tags:
                client.delete_model_version_tag(version.name, version.version, name)
        for name, value in tags.items():
            if there.get(name) != value:
                client.set_model_version_tag(version.name, version.version, name, value)


def make_champion(version: Version) -> None:
    """Move the alias ``champion`` to a version: the one step that others see.

    Raises:
        RegistryError: the registry cannot be written; the alias is where it was.
    """
    with registry_errors(f"{version.name}@{CHAMPION}"):
        MlflowClient().set_registered_model_alias(version.name, CHAMPION, version.version)
