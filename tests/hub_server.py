"""A small Hub on loopback that the unmodified huggingface_hub client talks to: `HF_ENDPOINT=<Hub().url>`.

Large files go by LFS, which is what the client does with HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml
from hub_store import Refused, Repository, entry, git_hash, is_large, listing

WRITER, READER = "hf_writer", "hf_reader"


class Hub:
    """The server.

    Attributes:
        url: its address.
        repositories: by (kind, "user/name").
        large: contents of large files by sha256, those of commits that never came too.
        tokens: token to (user, whether it may write).
        requests: method and path of everything that was asked.
        dies_at: a pattern: at the first request that matches, the server falls silent until `revive`.
        fell: set when it has.
        hangs: whether it keeps connections open when it falls silent, instead of closing them.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.tokens = {WRITER: ("user", True), READER: ("user", False)}
        self.requests: list[str] = []
        self.dies_at: str | None = None
        self.fell = threading.Event()
        self.hangs = False
        self.lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        self.server.hub = self  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def revive(self) -> None:
        self.dies_at, self.hangs = None, False
        self.fell.clear()

    def model(self, name: str) -> Repository:
        return self.repositories["model", name]

    def dataset(self, name: str) -> Repository:
        return self.repositories["dataset", name]


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # a client opens many connections at once


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any

    def log_message(self, *arguments: Any) -> None:
        pass

    def _serve(self) -> None:
        hub: Hub = self.server.hub
        asked = f"{self.command} {unquote(self.path)}"
        if hub.fell.is_set() or (hub.dies_at and re.search(hub.dies_at, asked)):
            hub.fell.set()
            self.close_connection = True
            if not hub.hangs:
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)
                return
            while hub.fell.is_set():
                time.sleep(0.05)
            return
        hub.requests.append(asked)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            with hub.lock:
                self._answer(hub)
        except Refused as refused:
            extra = {"X-Error-Code": refused.code} if refused.code else {}
            self._send(refused.status, {"error": str(refused)}, {**extra, "X-Error-Message": str(refused)})

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # --- who asks, and for what ---------------------------------------------------------------------------

    def _user(self, hub: Hub, *, writes: bool = False) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if token and token not in hub.tokens:
            raise Refused(401, None, "Invalid credentials in Authorization header")
        user, may_write = hub.tokens.get(token, (None, False))
        if writes and user is None:
            raise Refused(401, None, "Invalid username or password.")
        if writes and not may_write:
            raise Refused(403, None, "Forbidden: you must use a write token to upload to a repository.")
        return user

    def _repository(self, hub: Hub, kind: str, name: str, *, writes: bool = False) -> Repository:
        user = self._user(hub, writes=writes)
        found = hub.repositories.get((kind, name))
        if found is None or (found.private and user != name.partition("/")[0]):
            raise Refused(404 if user else 401, "RepoNotFound", "Repository not found")
        if writes and user != name.partition("/")[0]:
            raise Refused(403, None, f"Forbidden: {user} may not write to {name}.")
        return found

    # --- answers ------------------------------------------------------------------------------------------

    def _answer(self, hub: Hub) -> None:
        url = urlsplit(self.path)
        path, query = unquote(url.path), {key: values[-1] for key, values in parse_qs(url.query).items()}
        kinds = {"models": "model", "datasets": "dataset"}
        if path == "/api/whoami-v2":
            user = self._user(hub)
            if user is None:
                raise Refused(401, None, "Invalid username or password.")
            self._send(200, {"type": "user", "name": user, "fullname": user, "orgs": [], "auth": {}})
        elif path == "/api/repos/create":
            self._create(hub, json.loads(self.body))
        elif path == "/api/validate-yaml":
            self._validate(json.loads(self.body)["content"])
        elif match := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
            if sha256(self.body).hexdigest() != match[1]:
                raise Refused(400, None, "The content is not what its name says")
            hub.large[match[1]] = self.body
            self._send(200, b"")
        elif path == "/lfs/verify":
            said = json.loads(self.body)
            if len(hub.large.get(said["oid"], b"")) != said["size"]:
                raise Refused(404, None, "There is no such object")
            self._send(200, {})
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self._repository(hub, "dataset" if match[1] else "model", match[2], writes=True)
            self._batch(hub, json.loads(self.body))
        elif match := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", path):
            self._resolve(self._repository(hub, "dataset" if match[1] else "model", match[2]), match[3], match[4])
        elif match := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/([a-z-]+)(?:/(.+))?)?", path):
            verb, rest = match[3], match[4] or ""
            writes = self.command == "POST" and verb in ("preupload", "commit", "branch")
            repository = self._repository(hub, kinds[match[1]], match[2], writes=writes)
            self._api(hub, repository, verb, rest, query)
        else:
            raise Refused(404, None, f"There is nothing at {path}")

    def _create(self, hub: Hub, asked: dict[str, Any]) -> None:
        user = self._user(hub, writes=True)
        owner, kind = asked.get("organization") or user, asked.get("type") or "model"
        name = f"{owner}/{asked['name']}"
        if owner != user:
            raise Refused(403, None, f"You don't have the rights to create a {kind} under the namespace {owner}")
        body = {"url": f"{hub.url}/{'datasets/' if kind == 'dataset' else ''}{name}", "id": name, "name": name}
        if (kind, name) in hub.repositories:
            self._send(409, {"error": f"You already created this {kind} repo", **body})
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        hub.repositories[kind, name] = Repository(kind, name, private=private)
        self._send(200, body)

    def _validate(self, content: str) -> None:
        """A card's metadata: YAML that is a mapping, with the types that the Hub asks for."""
        errors = []
        front = re.match(r"---\n(.*?)\n---(\n|$)", content, re.DOTALL)
        try:
            data = yaml.safe_load(front[1]) if front else {}
            if not isinstance(data, dict):
                raise ValueError("metadata should be a mapping")
            for key in ("license", "library_name", "pipeline_tag"):
                if not isinstance(data.get(key, ""), str):
                    errors.append(f'"{key}" must be a string')
            for key in ("tags", "datasets"):
                if not all(isinstance(item, str) for item in data.get(key, [])):
                    errors.append(f'"{key}" must be an array of strings')
            for model in data.get("model-index", []):
                for result in model["results"]:
                    if {"task", "dataset", "metrics"} - set(result) or {"type", "name"} - set(result["dataset"]):
                        errors.append('"model-index[0].results" lacks a field')
        except (yaml.YAMLError, ValueError, KeyError) as error:
            errors.append(str(error))
        self._send(400 if errors else 200, {"errors": [{"message": e} for e in errors], "warnings": []})

    def _batch(self, hub: Hub, asked: dict[str, Any]) -> None:
        objects = []
        for one in asked["objects"]:
            there = {"upload": {"href": f"{hub.url}/lfs/{one['oid']}"}, "verify": {"href": f"{hub.url}/lfs/verify"}}
            objects.append({**one, **({} if one["oid"] in hub.large else {"actions": there})})
        self._send(200, {"transfer": "basic", "objects": objects})

    def _resolve(self, repository: Repository, revision: str, path: str) -> None:
        content = repository.file(revision, path)
        tag = sha256(content).hexdigest() if is_large(path) else git_hash(content)
        headers = {"X-Repo-Commit": repository.sha(revision), "ETag": f'"{tag}"', "Accept-Ranges": "bytes"}
        if is_large(path):
            headers |= {"X-Linked-Etag": f'"{tag}"', "X-Linked-Size": str(len(content))}
        headers["Content-Type"] = "application/octet-stream"
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            first, last = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(206, content[first : last + 1], headers)
            return
        self._send(200, content, headers)

    def _api(self, hub: Hub, repository: Repository, verb: str | None, rest: str, query: dict[str, str]) -> None:
        asked = json.loads(self.body) if self.body and verb not in ("commit", "paths-info") else {}
        if verb in (None, "revision"):
            revision = rest or "main"
            files = sorted(repository.tree(revision))
            about = {"id": repository.name, "modelId": repository.name, "sha": repository.sha(revision)}
            about |= {"private": repository.private, "tags": [], "downloads": 0, "likes": 0, "gated": False}
            self._send(200, {**about, "siblings": [{"rfilename": path} for path in files]})
        elif verb == "tree":
            match = re.fullmatch(r"(refs/pr/\d+|[^/]+)(?:/(.+))?", rest)
            assert match
            recursive = query.get("recursive", "").lower() in ("1", "true")
            self._send(200, listing(repository.tree(match[1]), match[2] or "", recursive=recursive))
        elif verb == "paths-info":
            text = self.body.decode()
            paths = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
            files = repository.tree(rest)
            found = [entry(path, files[path]) for path in paths if path in files]
            folders = [p for p in paths if p not in files and any(path.startswith(f"{p}/") for path in files)]
            self._send(200, found + [{"type": "directory", "path": p, "size": 0, "oid": "0"} for p in folders])
        elif verb == "refs":
            names = [(name, sha) for name, sha in repository.branches.items() if not name.startswith("refs/")]
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in names]
            self._send(200, {"branches": branches, "tags": [], "converts": []})
        elif verb == "branch":
            repository.branch(rest, asked.get("startingPoint") or "main")
            self._send(200, {})
        elif verb == "preupload":
            files = repository.tree(rest)
            answers = []
            for one in asked["files"]:
                path, mode = one["path"], "lfs" if is_large(one["path"]) else "regular"
                known = entry(path, files[path]) if path in files else None
                oid = (known["lfs"]["oid"] if mode == "lfs" else known["oid"]) if known else None
                answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
            self._send(200, {"files": answers})
        elif verb == "commit":
            lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
            pr = query.get("create_pr") == "1"
            where = repository.commit(rest, lines, hub.large, pr=pr)
            sha = repository.sha(where)
            prefix = "datasets/" if repository.kind == "dataset" else ""
            url = f"{hub.url}/{prefix}{repository.name}"
            request = f"{url}/discussions/{where.rpartition('/')[2]}" if pr else None
            self._send(
                200, {"commitUrl": f"{url}/commit/{sha}", "commitOid": sha, "pullRequestUrl": request, "success": True}
            )
        else:
            raise Refused(404, None, f"There is nothing at {self.path}")
