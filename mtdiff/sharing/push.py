"""Push to the Hub in one commit: all of it is there afterwards, or the repository is as it was.

Only files that differ are sent. What an earlier push brought and this one does not is removed in the same commit; what
others added stays.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtdiff.data.storage import CARD, MANIFEST, damage, read_manifest
from mtdiff.errors import DataError, MTDiffError
from mtdiff.sharing.repository import Kind, Repository, asking, require_token

if TYPE_CHECKING:
    from mtdiff.pipelines.sampler import SamplerPipeline
    from mtdiff.sharing.subject import Subject


def push(
    source: str | Path,
    name: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """Push a run, a saved pipeline or a dataset folder.

    Args:
        source: a run's folder, a saved pipeline's, a dataset's, or a repository that is to be pushed elsewhere.
        name: "user/name"; made if need be.
        private: whether a repository that is made now is private; by default as the Hub has it for the user.
        revision: the branch to push to, made if need be; by default the main one.
        message: of the commit.
        create_pr: propose it as a pull request instead of changing the branch.
        license: of what is pushed, an identifier of the Hub's such as "mit". By default "mit" for what follows from
            data that mtdiff collected, and none where the data are others'.
        token: by default HF_TOKEN, or that of `hf auth login`.

    Returns:
        repository, kind, url, commit, pull_request, revision, sent, removed (paths), bytes (sent), unchanged (files).

    Raises:
        DataError: what is to be pushed is damaged.
        MTDiffError: there is nothing to push, or the Hub does not take it.
    """
    target = _target(name, revision, token, create_pr=create_pr)
    options: dict[str, Any] = {"private": private, "message": message, "create_pr": create_pr}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(source).expanduser()
        if (folder / MANIFEST).is_file():
            files = _dataset(folder, Path(place), target.name, license)
            return upload(target, files, "dataset", **options)
        from mtdiff.sharing.subject import of_source

        return _push(of_source(source, license=license), target, Path(place) / "repository", **options)


def push_pipeline(
    pipeline: SamplerPipeline,
    name: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
    license: str | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """Push a pipeline as it is in memory; see `push`."""
    from mtdiff.sharing.subject import of_pipeline

    target = _target(name, revision, token, create_pr=create_pr)
    with tempfile.TemporaryDirectory() as place:
        subject = of_pipeline(pipeline, license=license)
        return _push(subject, target, Path(place) / "repository", private=private, message=message, create_pr=create_pr)


def upload(
    target: Repository,
    files: Mapping[str, Path],
    kind: Kind,
    *,
    private: bool | None = None,
    message: str | None = None,
    create_pr: bool = False,
) -> dict[str, Any]:
    """Make a repository's files these, in one commit; see `push` for what is returned.

    Args:
        target: where to.
        files: path in the repository to the file.
        kind: "model" or "dataset".
        private: see `push`.
        message: see `push`.
        create_pr: see `push`.

    Raises:
        MTDiffError: the Hub does not take it; the repository is as it was.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.hf_api import RepoFile

    require_token(target)
    api = HfApi(token=target.token)
    with asking(target, kind, writes=True):
        url = str(api.create_repo(target.name, repo_type=kind, private=private, exist_ok=True))
        if target.revision:
            api.create_branch(target.name, repo_type=kind, branch=target.revision, exist_ok=True)
        about = api.repo_info(target.name, repo_type=kind, revision=target.revision)
        if private and not about.private:
            raise MTDiffError(
                f"{target}: is public, and stays so whoever pushes. Make it private in its settings, or push without "
                "private"
            )
        listed = api.list_repo_tree(target.name, repo_type=kind, revision=about.sha, recursive=True)
        there = {file.path: file for file in listed if isinstance(file, RepoFile)}
        sent = [path for path, file in files.items() if path not in there or not _same(file, there[path])]
        folders = {path.partition("/")[0] for path in files if "/" in path}
        gone = sorted(p for p in there if p not in files and "/" in p and p.partition("/")[0] in folders)
        done: dict[str, Any] = {
            "repository": target.name,
            "kind": kind,
            "url": url,
            "commit": about.sha,
            "pull_request": None,
            "revision": target.revision or "main",
            "sent": sent,
            "removed": gone,
            "bytes": sum(files[path].stat().st_size for path in sent),
            "unchanged": len(files) - len(sent),
        }
        if not sent and not gone:
            return done
        commit = api.create_commit(
            target.name,
            [
                *(CommitOperationAdd(path, files[path]) for path in sent),
                *(CommitOperationDelete(path) for path in gone),
            ],
            repo_type=kind,
            revision=target.revision,
            commit_message=message or f"Push with mtdiff: {len(sent)} files",
            parent_commit=about.sha,
            create_pr=create_pr,
        )
    return {**done, "commit": commit.oid, "pull_request": commit.pr_url}


def _target(name: str, revision: str | None, token: str | None, *, create_pr: bool) -> Repository:
    if "/" not in name:
        name = f"{_me(name, token)}/{name}"
    try:
        target = Repository.named(name, revision=revision, token=token)
    except MTDiffError:
        raise MTDiffError(f"{name}: not a repository id; it should be like user/name") from None
    if create_pr and revision not in (None, "main"):
        raise MTDiffError(f"{target}: a pull request is made against the main branch; leave out the revision")
    require_token(target)
    return target


def _me(name: str, token: str | None) -> str:
    """Whose token it is: a name alone is one of theirs."""
    from huggingface_hub import HfApi

    unnamed = Repository(name=name, token=token)
    require_token(unnamed)
    with asking(unnamed, writes=True):
        return HfApi(token=token).whoami()["name"]


def _push(subject: Subject, target: Repository, folder: Path, **options: Any) -> dict[str, Any]:
    from mtdiff.sharing.card import model_card

    subject.stage(folder, card=model_card(subject, target.name))
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return upload(target, files, "model", **options)


def _dataset(folder: Path, place: Path, name: str, license: str | None) -> dict[str, Path]:
    """A dataset's files; its card says where it is now."""
    shards = [shard for split in read_manifest(folder)["splits"].values() for shard in split["shards"]]
    for shard in shards:
        if fault := damage(folder, shard):
            raise DataError(f"{folder / shard['path']}: {fault}. Nothing was pushed")
    from huggingface_hub import DatasetCard

    card = DatasetCard(
        (folder / CARD)
        .read_text(encoding="utf-8")
        .replace('load_dataset("FOLDER"', f'load_dataset("{name}"')
        .replace('or "FOLDER", "prompts"', f'or "{name}", "prompts"')
    )
    if license:
        card.data["license"] = license
    card.text += f"\nTo train on it: `data: {{name: hub, repo: {name}}}` in a recipe of mtdiff.\n"
    (place / CARD).write_text(str(card), encoding="utf-8")
    names = [MANIFEST, *(shard["path"] for shard in shards)]
    return {CARD: place / CARD, **{path: folder / path for path in names}}


def _same(file: Path, there: Any) -> bool:
    """Whether a file of the Hub has the content of one here."""
    if file.stat().st_size != there.size:
        return False
    with file.open("rb") as opened:
        if there.lfs is not None:
            return hashlib.file_digest(opened, "sha256").hexdigest() == there.lfs.sha256
        digest = hashlib.sha1(b"blob %d\0" % there.size, usedforsecurity=False)
        digest.update(opened.read())
        return digest.hexdigest() == there.blob_id
