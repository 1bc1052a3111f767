"""The DVC project that this project is: opened, fed and asked, with errors that a user can act on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from umt_pipeline.core.errors import ConfigError


@contextmanager
def dvc_repo(project: Path) -> Iterator[Any]:
    """Yield the project's ``dvc.repo.Repo``, with DVC's errors as ours.

    Raises:
        ConfigError: the project is no git repository or no DVC project, or DVC refuses what is asked in the block.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    # DVC's own lines would stand between ours, and say what ours say.
    logging.getLogger("dvc").setLevel(logging.ERROR)
    try:
        with Repo(str(project)) as repo:
            repo.scm  # noqa: B018  # asked for here, where the message can say what to do
            yield repo
    except NotDvcRepoError:
        raise ConfigError(
            f"{project}: expected a DVC project, found no folder .dvc. Run `git init` if there is no .git, and `dvc init`."
        ) from None
    except SCMError as error:
        raise ConfigError(
            f"{project}: expected a git repository beside .dvc: {error}. Run `git init`; or, to work without versions, "
            "`dvc config core.no_scm true`."
        ) from error
    except DvcException as error:
        causes = [str(error)]
        cause = error.__cause__
        while cause is not None:
            causes.append(str(cause))
            cause = cause.__cause__
        raise ConfigError(f"DVC: {': '.join(dict.fromkeys(causes))}") from error


def has_remote(project: Path) -> bool:
    """Whether DVC knows where to keep data outside this machine."""
    with dvc_repo(project) as repo:
        return bool(repo.config["core"].get("remote"))


def put_under_dvc(repo: Any, paths: Sequence[Path]) -> None:
    """Let DVC keep files and folders as they are now; files can be written afterwards, and are no links into the cache.

    Args:
        repo: from :func:`dvc_repo`.
        paths: what is there of it.
    """
    present = [path for path in paths if path.exists()]
    repo.add([str(path) for path in present])
    for path in present:
        # Tables are small and edited. A folder of media stays as it is linked.
        if path.is_file():
            repo.unprotect(str(path))
