"""A repository on the Hub, and what to say when the Hub does not do as it was asked."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mtdiff.errors import MTDiffError, choices

PREFIX = "hub:"
Kind = Literal["model", "dataset"]

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_CLIENTS = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")  # whose errors are of the connection


class HubUnreachable(MTDiffError):
    """The Hub, or the way to it, is away."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository on the Hub as it is to be pulled.

    Args:
        name: "user/name".
        revision: a branch, tag or commit; None is its main branch.
        cache_dir: the cache of downloads; by default the client's, see HF_HOME.
        local_files_only: read from the cache alone, as with HF_HUB_OFFLINE=1.
        token: by default HF_TOKEN, or that of `hf auth login`.
        trust_remote_code: let it run code: modules that its recipe imports, classes and pickles of its own.
    """

    name: str
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    token: str | bool | None = None
    trust_remote_code: bool = False

    @classmethod
    def named(cls, text: object, **settings: Any) -> Repository:
        """Return what "user/name", "user/name@revision" or either of them after "hub:" means.

        Raises:
            MTDiffError: the text is nothing of that kind, or names two revisions.
        """
        name, at, revision = str(text).removeprefix(PREFIX).partition("@")
        if not _NAME.fullmatch(name) or (at and not revision):
            raise MTDiffError(f"{text}: no such run or pipeline folder, and not a repository id like user/name")
        if at and settings.get("revision") not in (None, revision):
            raise MTDiffError(f"{text}: names another revision than the one that was asked for, {settings['revision']}")
        return cls(name=name, **{**settings, **({"revision": revision} if at else {})})

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name

    @property
    def folder_name(self) -> str:
        """A name of the repository that a folder can have."""
        return str(self).replace("/", "--")


@contextmanager
def asking(repository: Repository, kind: Kind = "model", *, writes: bool = False) -> Iterator[None]:
    """Say in one message why the Hub did not do as it was asked.

    Raises:
        MTDiffError: what went wrong with which repository, and what can be done.
    """
    try:
        yield
    except MTDiffError:
        raise
    except Exception as error:
        if reason := _reason(error, repository, kind, writes=writes):
            raise MTDiffError(f"{repository}: {reason}") from error
        if away := next((one for one in _chain(error) if _of_connection(one)), None):
            kept = ". Nothing of it was changed: push again" if writes else ""
            what = f"the Hub at {_endpoint()} cannot be reached ({_first_line(away)}){kept}"
            raise HubUnreachable(f"{repository}: {what}") from error
        raise


def require_token(repository: Repository) -> None:
    """Refuse to push without a token, before anything is prepared.

    Raises:
        MTDiffError: nobody is logged in.
    """
    from huggingface_hub import get_token

    if not (isinstance(repository.token, str) or get_token()):
        raise MTDiffError(f"{repository}: pushing needs a token. Log in with `hf auth login`, or set HF_TOKEN")


def _reason(error: BaseException, repository: Repository, kind: Kind, *, writes: bool) -> str | None:
    """What the Hub, or its client, said; None where that was nothing."""
    from huggingface_hub import errors

    for one in _chain(error):
        if isinstance(one, errors.RevisionNotFoundError):
            return _no_revision(repository, kind)
        if isinstance(one, errors.GatedRepoError):
            return f"must be asked for on its page first, {_endpoint()}/{repository.name}"
        if isinstance(one, errors.RepositoryNotFoundError):
            here = "" if writes or kind == "dataset" else "no such folder here, and "
            return f"{here}no such {kind} repository on the Hub, or a private one that your token does not open"
        if isinstance(one, errors.HfHubHTTPError) and one.response is not None:
            return _refusal(one, repository, writes=writes)
        if isinstance(one, errors.OfflineModeIsEnabled):
            return "the Hub may not be asked, because HF_HUB_OFFLINE is set" + _not_cached(repository, writes=writes)
    if any(map(_of_connection, _chain(error))):
        return None
    if isinstance(error, errors.LocalEntryNotFoundError | errors.IncompleteSnapshotError):
        why = "only the cache may be asked" if repository.local_files_only else "the Hub cannot be asked"
        return why + _not_cached(repository, writes=writes)
    if isinstance(error, OSError) and error.errno is None:  # the client's: a file of another size than was said
        return f"cannot be loaded from the Hub ({_first_line(error)})"
    return None


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what it came from."""
    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    return chain


def _of_connection(error: BaseException) -> bool:
    """Whether an error is one of the connection; OfflineModeIsEnabled is one by its type, and is told before."""
    return type(error).__module__.partition(".")[0] in _CLIENTS or isinstance(error, ConnectionError | TimeoutError)


def _refusal(error: Any, repository: Repository, *, writes: bool) -> str:
    status, said = error.response.status_code, _first_line(error)
    right = "may write" if writes else "may read it"
    if status == 401:
        return (
            f"the Hub does not know the token {_whose(repository)}: it is wrong, or no longer valid. Make one that "
            f"{right} at {_endpoint()}/settings/tokens"
        )
    if status == 403:
        return f"the token {_whose(repository)} does not allow this ({said})"
    if status in (409, 412):
        return "was changed by somebody else in the meantime. Nothing was pushed: push again"
    kept = ". Nothing of it was changed: push again" if writes else ""
    return f"the Hub answered with {status} ({said}){kept}"


def _no_revision(repository: Repository, kind: Kind) -> str:
    from huggingface_hub import HfApi

    try:
        refs = HfApi().list_repo_refs(repository.name, repo_type=kind, token=repository.token)
    except Exception:  # a list is only a help
        return f"has no revision '{repository.revision}'"
    return choices("revision", repository.revision, [ref.name for ref in [*refs.branches, *refs.tags]])


def _not_cached(repository: Repository, *, writes: bool) -> str:
    if writes:
        return ""
    from huggingface_hub import constants

    return f", and it is not whole in the cache {repository.cache_dir or constants.HF_HUB_CACHE}"


def _whose(repository: Repository) -> str:
    if isinstance(repository.token, str):
        return "that was given"
    named = [name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)]
    return named[0] if named else "of `hf auth login`"


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(getattr(error, "server_message", None) or error).splitlines()]
    return next((line.rstrip(".") for line in lines if line), type(error).__name__)
