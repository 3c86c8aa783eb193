"""What a Hub holds: repositories, whose commits are whole or not at all, and the contents of large files."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from typing import Any

LARGE = (".safetensors", ".parquet", ".mp4", ".bin")


class Refused(Exception):
    """An answer other than 200: its status, the code that the client understands, and a message."""

    def __init__(self, status: int, code: str | None, message: str):
        super().__init__(message)
        self.status, self.code = status, code


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


@dataclass
class Commit:
    """A tree of files by path, and what was said of it."""

    files: dict[str, bytes]
    parent: str | None
    message: str
    sent: list[str]  # paths that this commit brought


@dataclass
class Repository:
    """Branches and commits of one repository."""

    kind: str  # "model" or "dataset"
    name: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._add("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, None, "initial commit", [])

    def sha(self, revision: str) -> str:
        """The commit that a branch, a pull request or a hash means."""
        if revision in self.branches:
            return self.branches[revision]
        if revision in self.commits:
            return revision
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")

    def tree(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.sha(revision)].files

    def file(self, revision: str, path: str) -> bytes:
        files = self.tree(revision)
        if path not in files:
            raise Refused(404, "EntryNotFound", "Entry not found")
        return files[path]

    def branch(self, name: str, start: str) -> None:
        if name in self.branches:
            raise Refused(409, None, "Reference already exists")
        self.branches[name] = self.sha(start)

    def commit(self, revision: str, lines: list[dict[str, Any]], large: dict[str, bytes], *, pr: bool) -> str:
        """Apply a commit's lines, all of them or none."""
        old = self.sha(revision)
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, old):
            raise Refused(412, None, "A commit has happened since. Please refresh and try again.")
        files, sent = dict(self.commits[old].files), []
        for line in lines:
            key, value = line["key"], line["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
                sent.append(value["path"])
            elif key == "lfsFile":
                if value["oid"] not in large:
                    raise Refused(400, None, f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = large[value["oid"]]
                sent.append(value["path"])
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                files = {path: content for path, content in files.items() if not path.startswith(value["path"])}
        if pr:
            revision = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in self.branches)}"
        self._add(revision, files, old, header["summary"], sent)
        return revision

    def _add(self, revision: str, files: dict[str, bytes], parent: str | None, message: str, sent: list[str]) -> None:
        text = repr((self.kind, self.name, parent, message, sorted((p, git_hash(c)) for p, c in files.items())))
        sha = hashlib.sha1(text.encode()).hexdigest()
        self.commits[sha] = Commit(files, parent, message, sent)
        self.branches[revision] = sha


def entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as listings have it."""
    found: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
    if is_large(path):
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return found


def listing(files: dict[str, bytes], below: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The entries of a folder, "" for all; raises where there is no such folder."""
    inside = {path: c for path, c in files.items() if not below or path.startswith(f"{below}/")}
    if below and not inside:
        raise Refused(404, "EntryNotFound", "Entry not found")
    start = len(below) + 1 if below else 0
    found: dict[str, dict[str, Any]] = {}
    for path, content in sorted(inside.items()):
        parts = path[start:].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            folder = path[:start] + "/".join(parts[:depth])
            found.setdefault(folder, {"type": "directory", "path": folder, "size": 0, "oid": git_hash(folder.encode())})
        if recursive or len(parts) == 1:
            found[path] = entry(path, content)
    return list(found.values())
