"""Stand-ins of the hubs on loopback: huggingface.co with its CDN on a second port, and ModelScope.

What they say follows huggingface_hub 2.4.0 and modelscope_hub 0.5.1, read as clients: `hf download` works here.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote

from orchestrator.demo.server import Origin

if TYPE_CHECKING:
    from collections.abc import Callable

LFS = (".safetensors", ".bin", ".pt", ".h5", ".gguf", ".onnx")


@lru_cache(maxsize=32)
def sha256(content: bytes) -> str:
    """Of a file that is asked for again and again: a whole model has 90 MB."""
    return hashlib.sha256(content).hexdigest()


def git_sha1(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def pointer(content: bytes) -> bytes:
    """The LFS pointer that git has in the place of `content`."""
    digest = sha256(content)
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize {len(content)}\n".encode()


@dataclass
class Repo:
    """A repository: files by commit, commits by name of the revision."""

    name: str
    gated: str | bool = False
    private: bool = False
    card: dict[str, Any] = field(default_factory=dict)  # the metadata of its model card
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], revision: str) -> str:
        about = repr(sorted((path, hashlib.sha256(data).digest()) for path, data in files.items()))
        sha = hashlib.sha1(f"{self.name} {about}".encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.revisions[revision] = sha
        return sha

    def at(self, revision: str) -> str | None:
        return self.revisions.get(revision) or (revision if revision in self.commits else None)

    @staticmethod
    def is_lfs(path: str) -> bool:
        return path.endswith(LFS)


@dataclass(frozen=True)
class Heard:
    """One request as it came."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def token(self) -> str | None:
        words = self.headers.get("authorization", "").split(" ")
        return words[1] if len(words) == 2 and words[0] == "Bearer" else None


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Server:
    """What both hubs are: an HTTP server on a loopback port that hears everything and can be told to be busy."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.heard: list[Heard] = []
        self.sent: Counter[str] = Counter()  # bytes of bodies, by path
        self._busy: list[tuple[str, tuple[tuple[str, str], ...]]] = []
        self._mutex = threading.Lock()

    def __enter__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _do(self) -> None:
                path, _, query = self.path.partition("?")
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                heard = Heard(self.command, path, parse_qs(query), headers, body)
                reply = outer._answer(heard)
                self.send_response(reply.status)
                for name, value in reply.headers:
                    self.send_header(name, value)
                if not any(name == "Content-Length" for name, _ in reply.headers):
                    self.send_header("Content-Length", str(len(reply.body)))
                self.end_headers()
                if self.command != "HEAD":
                    outer.sent[path] += len(reply.body)
                    self.wfile.write(reply.body)

            do_GET = do_HEAD = do_POST = _do

            def log_message(self, *_: Any) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            request_queue_size = 128  # of 5 the sixth connection at once waits a second for its next SYN

            def handle_error(self, *_: Any) -> None:  # clients hang up as they like
                pass

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def api_calls(self) -> int:
        """How often the API was asked; the cache of small files below /api/ is none of it."""
        return sum(h.path.startswith("/api/") and not h.path.startswith("/api/resolve-cache/") for h in self.heard)

    def be_busy(self, part: str, *, times: int = 1, **headers: str) -> None:
        """Answer the next `times` requests whose path has `part` in it with 429 and these headers."""
        told = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        self._busy += [(part, told)] * times

    def _answer(self, heard: Heard) -> Reply:
        with self._mutex:
            self.heard.append(heard)
            for number, (part, headers) in enumerate(self._busy):
                if part in heard.path:
                    del self._busy[number]
                    return Reply(429, b"too many requests", headers)
        return self.route(heard)

    def route(self, heard: Heard) -> Reply:
        raise NotImplementedError


class Hub(Server):
    """huggingface.co. `tokens` are those it knows, each with the gated or private repositories that it opens."""

    def __init__(self, *, page: int = 1000, bare_bytes: int | None = None, holds_s: float = 3600.0) -> None:
        super().__init__()
        self.page, self.bare_bytes, self.holds_s = page, bare_bytes, holds_s
        self.in_circles = False  # whether a listing's next page is always its first
        self.tokens: dict[str, set[str]] = {}
        self.renamed: dict[str, str] = {}
        self.cdn = Origin(one_auth=True, signed=True)
        self._served: set[str] = set()

    def __enter__(self) -> Hub:
        self.cdn.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.cdn.__exit__()

    def repo(self, name: str, files: dict[str, bytes], *, revision: str = "main", **how: Any) -> str:
        """Make a repository, or one more commit of it; gives the commit."""
        repo = self.repos.setdefault(name, Repo(name))
        for key, value in how.items():
            setattr(repo, key, value)
        for path, data in files.items():
            if repo.is_lfs(path):
                self.serve(data)
        return repo.commit(files, revision)

    def serve(self, data: bytes, **faults: Any) -> str:
        """Put an LFS file on the CDN (again, with faults); gives its path there."""
        digest = sha256(data)
        xet = sha256(b"xet" + digest.encode())  # looks like the file's sha256 and is not
        large = self.bare_bytes is not None and len(data) > self.bare_bytes
        if faults or digest not in self._served:
            self._served.add(digest)
            self.cdn.serve(f"/lfs/{digest}", data, etag=xet, **{"refuse_bare_get": large, **faults})
        return f"/lfs/{digest}"

    def route(self, heard: Heard) -> Reply:
        for pattern, answer in self._ROUTES:
            found = re.fullmatch(pattern, heard.path)
            if found:
                name, rest = unquote(found[1]), [unquote(part or "") for part in found.groups()[1:]]
                if name in self.renamed:
                    where = heard.path.replace(name, self.renamed[name], 1)
                    query = "&".join(f"{k}={quote(v)}" for k, values in heard.query.items() for v in values)
                    return Reply(307, b"", (("Location", where + (f"?{query}" if query else "")),))
                repo = self.repos.get(name)
                if repo is None or (repo.private and not self._opens(heard, name)):
                    return self._unknown(heard)
                return answer(self, heard, repo, *rest)
        return Reply(404, b"Not Found")

    def _opens(self, heard: Heard, name: str) -> bool:
        return name in self.tokens.get(heard.token or "", ())

    def _unknown(self, heard: Heard) -> Reply:
        if heard.token is None:
            return Reply(401, b'{"error":"Invalid username or password."}')
        if heard.token not in self.tokens:
            return _error(401, "", "Invalid credentials in Authorization header")
        return _error(404, "RepoNotFound", "Repository not found")

    def _gate(self, heard: Heard, repo: Repo) -> Reply | None:
        """What keeps a request from a gated repository's files."""
        if heard.token is not None and heard.token not in self.tokens:
            return _error(401, "", "Invalid credentials in Authorization header")
        if not repo.gated or self._opens(heard, repo.name):
            return None
        status = 401 if heard.token is None else 403
        return _error(status, "GatedRepo", f"Access to model {repo.name} is restricted.")

    def _info(self, heard: Heard, repo: Repo, revision: str = "main") -> Reply:
        sha = repo.at(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        blobs = "blobs" in heard.query
        siblings = [
            {"rfilename": path, **(_sibling(repo, path, data) if blobs else {})}
            for path, data in sorted(repo.commits[sha].items())
        ]
        about = {"_id": "1", "id": repo.name, "modelId": repo.name, "sha": sha, "private": repo.private, "tags": []}
        return _json(
            {**about, "gated": repo.gated, "downloads": 0, "likes": 0, "cardData": repo.card, "siblings": siblings}
        )

    def _auth_check(self, heard: Heard, repo: Repo) -> Reply:
        return self._gate(heard, repo) or _json({})

    def _refs(self, heard: Heard, repo: Repo) -> Reply:
        names = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.revisions.items()]
        return _json({"branches": names, "tags": [], "converts": []})

    def _tree(self, heard: Heard, repo: Repo, revision: str, folder: str) -> Reply:
        sha = repo.at(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        recursive = heard.query.get("recursive", [""])[0].lower() == "true"
        entries = _entries(repo, sha, folder, recursive=recursive)
        start = int(heard.query.get("cursor", ["0"])[0])
        page, headers = entries[start : start + self.page], ()
        if start + self.page < len(entries) or self.in_circles:
            after = 0 if self.in_circles else start + self.page
            query = f"recursive={'true' if recursive else 'false'}&cursor={after}"
            headers = (("Link", f'<{self.url}{heard.path}?{query}>; rel="next"'),)
        return _json(page, headers)

    def _paths_info(self, heard: Heard, repo: Repo, revision: str) -> Reply:
        sha = repo.at(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if "json" in heard.headers.get("content-type", ""):
            asked = json.loads(heard.body)["paths"]
        else:
            asked = parse_qs(heard.body.decode()).get("paths", [])
        return _json([entry for entry in _entries(repo, sha, "", recursive=True) if entry["path"] in asked])

    def _raw(self, heard: Heard, repo: Repo, revision: str, path: str) -> Reply:
        return self._resolve(heard, repo, revision, path, raw=True)

    def _resolve(self, heard: Heard, repo: Repo, revision: str, path: str, *, raw: bool = False) -> Reply:
        if gate := self._gate(heard, repo):
            return gate
        sha = repo.at(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repo.commits[sha].get(path)
        commit = ("X-Repo-Commit", sha)
        if data is None:
            return _error(404, "EntryNotFound", "Entry not found", commit)
        if raw:
            return _bytes(heard, pointer(data) if repo.is_lfs(path) else data, (commit,))
        if not repo.is_lfs(path):
            where = f"/api/resolve-cache/models/{repo.name}/{sha}/{quote(path, safe='')}"
            return Reply(307, b"Temporary Redirect", (commit, ("Location", where)))
        digest = sha256(data)
        until = int(time.time() + self.holds_s)
        where = f"{self.cdn.url}/lfs/{digest}?Expires={until}&Signature=s{until}~&Key-Pair-Id=K"
        linked = (("X-Linked-Size", str(len(data))), ("X-Linked-Etag", f'"{digest}"'))
        return Reply(302, b"Found. Redirecting to the CDN", (commit, *linked, ("Location", where)))

    def _cached(self, heard: Heard, repo: Repo, sha: str, path: str) -> Reply:
        if gate := self._gate(heard, repo):
            return gate
        data = repo.commits[sha][path]
        return _bytes(heard, data, (("X-Repo-Commit", sha), ("ETag", f'"{git_sha1(data)}"')))

    _NAME = r"([\w.-]+(?:/[\w.-]+)?)"
    _ROUTES: tuple[tuple[str, Callable[..., Reply]], ...] = (
        (rf"/api/models/{_NAME}/revision/([^/]+)", _info),
        (rf"/api/models/{_NAME}/tree/([^/]+)(?:/(.*))?", _tree),
        (rf"/api/models/{_NAME}/paths-info/([^/]+)", _paths_info),
        (rf"/api/models/{_NAME}/refs", _refs),
        (rf"/api/models/{_NAME}/auth-check", _auth_check),
        (rf"/api/models/{_NAME}", _info),
        (rf"/api/resolve-cache/models/{_NAME}/([0-9a-f]{{40}})/([^/]+)", _cached),
        (rf"/{_NAME}/resolve/([^/]+)/(.+)", _resolve),
        (rf"/{_NAME}/raw/([^/]+)/(.+)", _raw),
    )


class ModelScope(Server):
    """modelscope.cn: its listing has the sha256 of every file; at most `most` entries, as the real one's 3,000."""

    def __init__(self, *, most: int = 3000) -> None:
        super().__init__()
        self.most = most

    def __enter__(self) -> ModelScope:
        super().__enter__()
        return self

    def repo(self, name: str, files: dict[str, bytes], *, revision: str = "master", **how: Any) -> str:
        """Make a repository, or one more commit of it; gives the commit."""
        repo = self.repos.setdefault(name, Repo(name))
        for key, value in how.items():
            setattr(repo, key, value)
        return repo.commit(files, revision)

    def route(self, heard: Heard) -> Reply:
        found = re.fullmatch(r"/api/v1/models/([\w.-]+/[\w.-]+)/(repo/files|revisions)", heard.path)
        if found:
            repo = self.repos.get(found[1])
            if repo is None or (repo.private and not heard.token):
                return _json({"Code": 10010205001, "Message": "record not found", "Success": False}, status=404)
            return self._files(heard, repo) if found[2] == "repo/files" else self._revisions(repo)
        found = re.fullmatch(r"/models/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", heard.path)
        repo = self.repos.get(found[1]) if found else None
        sha = repo.at(unquote(found[2])) if repo and found else None
        data = repo.commits[sha].get(unquote(found[3])) if repo and sha and found else None
        return Reply(404, b"not found") if data is None else _bytes(heard, data, ())

    def _files(self, heard: Heard, repo: Repo) -> Reply:
        revision = heard.query.get("Revision", ["master"])[0]
        sha = repo.at(revision)
        if sha is None:
            return _json(
                {"Code": 10010203002, "Message": f"revision {revision} not found", "Success": False}, status=404
            )
        recursive = heard.query.get("Recursive", ["False"])[0] == "True"
        entries = _entries(repo, sha, heard.query.get("Root", [""])[0].strip("/"), recursive=recursive)
        listed = [
            {
                "Path": entry["path"],
                "Name": entry["path"].rpartition("/")[2],
                "Type": "blob" if entry["type"] == "file" else "tree",
                "Size": entry["size"],
                "Sha256": sha256(repo.commits[sha][entry["path"]]) if entry["type"] == "file" else "",
                "Revision": hashlib.sha1(entry["path"].encode()).hexdigest(),  # of the file's own last commit
                "IsLFS": repo.is_lfs(entry["path"]),
            }
            for entry in entries
        ]
        return _json(
            {"Code": 200, "Success": True, "Data": {"Files": listed[: self.most], "LatestCommitter": {"Id": sha}}}
        )

    @staticmethod
    def _revisions(repo: Repo) -> Reply:
        branches = [{"Revision": name, "CreatedAt": 1700000000} for name in repo.revisions]
        return _json({"Code": 200, "Success": True, "Data": {"RevisionMap": {"Branches": branches, "Tags": []}}})


def _sibling(repo: Repo, path: str, data: bytes) -> dict[str, Any]:
    if not repo.is_lfs(path):
        return {"size": len(data), "blobId": git_sha1(data)}
    lfs = {"sha256": sha256(data), "size": len(data), "pointerSize": len(pointer(data))}
    return {"size": len(data), "blobId": git_sha1(pointer(data)), "lfs": lfs}


def _entries(repo: Repo, sha: str, folder: str, *, recursive: bool) -> list[dict[str, Any]]:
    """The tree's entries: files, and the folders above them."""
    found: dict[str, dict[str, Any]] = {}
    top = f"{folder}/" if folder else ""
    for path, data in repo.commits[sha].items():
        if not path.startswith(top):
            continue
        parts = path[len(top) :].split("/")
        for depth in range(1, len(parts)):
            name = top + "/".join(parts[:depth])
            if recursive or depth == 1:
                found[name] = {
                    "type": "directory",
                    "oid": hashlib.sha1(name.encode()).hexdigest(),
                    "size": 0,
                    "path": name,
                }
        if recursive or len(parts) == 1:
            about = _sibling(repo, path, data)
            entry = {"type": "file", "oid": about["blobId"], "size": len(data), "path": path}
            if "lfs" in about:
                entry["lfs"] = {"oid": about["lfs"]["sha256"], **{k: about["lfs"][k] for k in ("size", "pointerSize")}}
            found[path] = entry
    return [found[path] for path in sorted(found)]


def _json(value: object, headers: tuple[tuple[str, str], ...] = (), status: int = 200) -> Reply:
    return Reply(status, json.dumps(value).encode(), (("Content-Type", "application/json"), *headers))


def _error(status: int, code: str, message: str, *headers: tuple[str, str]) -> Reply:
    told = ((("X-Error-Code", code),) if code else ()) + (("X-Error-Message", message),)
    return Reply(status, json.dumps({"error": message}).encode(), (*told, *headers))


def _bytes(heard: Heard, data: bytes, headers: tuple[tuple[str, str], ...]) -> Reply:
    """A file that the hub serves by itself, or the range of it that was asked for."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", heard.headers.get("range", ""))
    headers = (("Accept-Ranges", "bytes"), *headers)
    if heard.method == "HEAD":
        return Reply(200, b"", (("Content-Length", str(len(data))), *headers))
    if asked is None or not data:
        return Reply(200, data, headers)
    start, stop = int(asked[1]), min(len(data), int(asked[2]) + 1 if asked[2] else len(data))
    if start >= stop:
        return Reply(416, b"", (("Content-Range", f"bytes */{len(data)}"),))
    return Reply(206, data[start:stop], (("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}"), *headers))
