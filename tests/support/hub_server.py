"""A small Hub on loopback: what huggingface_hub and Transformers need to push and to load models.

Point a process to it with `HF_ENDPOINT` (and `HF_HUB_DISABLE_XET=1`: it only speaks Git LFS). Everything is in memory,
and every request is kept in `HubServer.requests`.
"""

import base64
import fnmatch
import functools
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "hf_loopback"
USER = "tester"
MAX_BODY = 64 * 2**20
MAX_REQUESTS = 10_000
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".gguf")


@dataclass
class Request:
    method: str
    path: str
    status: int
    token: str | None
    num_bytes: int = 0

    @property
    def file(self) -> str | None:
        """Path of the file in its repository, where one was asked for."""
        match = re.match(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", self.path)
        return match and unquote(match[1])


@dataclass
class Repo:
    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> path -> content
    branches: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"})

    def commit(self, branch: str, changes: dict[str, bytes | None]) -> str:
        """Adds files, or deletes those whose content is None."""
        files = {**self.commits.get(self.branches.get(branch, ""), {}), **changes}
        sha = hashlib.sha1(f"{len(self.commits)} {branch}".encode()).hexdigest()
        self.commits[sha] = {path: content for path, content in files.items() if content is not None}
        self.branches[branch] = sha
        return sha

    def find(self, revision: str) -> str:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return sha

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.find(revision)]


class HubError(Exception):
    def __init__(self, status: int, code: str, message: str, **headers: str):
        super().__init__(message)
        self.status = status
        self.headers = {"X-Error-Code": code, "X-Error-Message": message, **headers}


class HubServer:
    """Use as a context manager; it serves from its beginning to its end."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[Request] = []
        self.uploads: list[tuple[str, str]] = []  # (repository, path), in order
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        # large files come from another host, as the real one's do; clients treat such redirects differently
        self.storage_url = f"http://localhost:{self.server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()

    def add(
        self,
        repo_id: str,
        files: dict[str, bytes],
        *,
        private: bool = False,
        gated: bool = False,
        revision: str = "main",
    ) -> str:
        """Put files there without a request; returns the commit. Files of a gated repository are for nobody."""
        with self.lock:
            repo = self.repos.setdefault(repo_id, Repo())
            repo.private, repo.gated = private, gated
            return repo.commit(revision, files)


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    timeout = 30
    wbufsize = -1  # an answer goes out in one piece
    disable_nagle_algorithm = True

    # (method, pattern of the path) -> name of the method that answers
    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create_repo"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "create_branch"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/refs", "refs"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "model_info"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>\w+)", "lfs_upload"),
        ("GET", r"/lfs/(?P<oid>\w+)", "lfs_download"),
    )

    def handle_request(self) -> None:
        url = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        _, _, token = self.headers.get("Authorization", "").partition(" ")
        self.token = token or None
        try:
            # the body is read in any case, so that the connection can go on
            self.body = self.read_body()
            if len(self.hub.requests) >= MAX_REQUESTS:
                raise HubError(429, "TooManyRequests", "This Hub has answered enough.")
            method = "GET" if self.command == "HEAD" else self.command
            for known, pattern, name in self.ROUTES:
                if known == method and (match := re.fullmatch(pattern, url.path)):
                    parts = {part: value and unquote(value) for part, value in match.groupdict().items()}
                    with self.hub.lock:
                        status, headers, content = getattr(self, name)(**parts)
                    break
            else:
                raise HubError(404, "NotFound", f"This Hub has no {self.command} {url.path}")
        except HubError as error:
            status, headers, content = error.status, error.headers, json.dumps({"error": str(error)}).encode()
        num_bytes = 0 if self.command == "HEAD" else len(content)
        self.hub.requests.append(Request(self.command, self.path, status, self.token, num_bytes))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def log_message(self, *args) -> None:
        pass

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.read_bounded(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline(64).split(b";")[0], 16):
            body += self.read_bounded(size, len(body))
            self.rfile.readline(8)
        self.rfile.readline(8)
        return body

    def read_bounded(self, size: int, before: int = 0) -> bytes:
        if before + size > MAX_BODY:
            self.close_connection = True
            raise HubError(413, "PayloadTooLarge", f"At most {MAX_BODY} bytes")
        return self.rfile.read(size)

    def find_repo(self, repo_id: str, *, write: bool = False) -> Repo:
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self.token != TOKEN):
            # as the real one: a private repository looks like a missing one, and both like a lack of rights
            raise HubError(401 if self.token is None else 404, "RepoNotFound", "Repository not found")
        if write and self.token != TOKEN:
            raise HubError(403, "Forbidden", "This token cannot write")
        return repo

    # -- accounts and repositories

    def whoami(self):
        if self.token != TOKEN:
            raise HubError(401, "Unauthorized", "Invalid username or password.")
        return as_json({"type": "user", "name": USER, "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create_repo(self):
        if self.token != TOKEN:
            raise HubError(401, "Unauthorized", "Invalid username or password.")
        wanted = json.loads(self.body)
        repo_id = f"{wanted.get('organization') or USER}/{wanted['name']}"
        exists = repo_id in self.hub.repos
        private = wanted.get("private") or wanted.get("visibility") == "private"
        self.hub.repos.setdefault(repo_id, Repo(private=bool(private)))
        content = {"name": repo_id, "url": f"{self.hub.url}/{repo_id}"}
        return as_json(content, 409 if exists else 200)

    def validate_yaml(self):
        content = json.loads(self.body)["content"]
        errors = [] if content.startswith("---\n") else [{"message": "no YAML at the beginning"}]
        return as_json({"errors": errors, "warnings": []}, 400 if errors else 200)

    # -- pushing

    def preupload(self, repo, revision):
        known = self.find_repo(repo, write=True).files(revision)
        asked = json.loads(self.body)
        ignored = (asked.get("gitIgnore") or known.get(".gitignore", b"").decode()).split()
        files = []
        for file in asked["files"]:
            path = file["path"]
            name = path.rsplit("/", 1)[-1]
            entry = {
                "path": path,
                "uploadMode": "lfs" if path.endswith(LFS_SUFFIXES) else "regular",
                "shouldIgnore": any(fnmatch.fnmatch(name, pattern) for pattern in ignored),
            }
            if path in known:
                entry["oid"] = file_entry(path, known[path])["oid"]
            files.append(entry)
        return as_json({"files": files})

    def commit(self, repo, revision):
        target, changes = self.find_repo(repo, write=True), {}
        target.find(revision)
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                changes[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                changes[value["path"]] = self.hub.blobs[value["oid"]]
            elif item["key"] == "deletedFile":
                changes[value["path"]] = None
        sha = target.commit(revision, changes)
        self.hub.uploads += [(repo, path) for path, content in changes.items() if content is not None]
        return as_json(
            {"success": True, "commitOid": sha, "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}", "hookOutput": ""}
        )

    def create_branch(self, repo, revision):
        target = self.find_repo(repo, write=True)
        if revision in target.branches:
            raise HubError(409, "BranchExists", f"Reference already exists: {revision}")
        target.branches[revision] = target.branches["main"]
        return as_json({})

    def lfs_batch(self, repo):
        self.find_repo(repo, write=True)
        objects = []
        for item in json.loads(self.body)["objects"]:
            answer = {"oid": item["oid"], "size": item["size"], "authenticated": True}
            if item["oid"] not in self.hub.blobs:
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}
            objects.append(answer)
        return as_json({"transfer": "basic", "objects": objects})

    def lfs_upload(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise HubError(400, "BadDigest", "The content does not have this sha256")
        self.hub.blobs[oid] = self.body
        return as_json({})

    # -- loading

    def lfs_download(self, oid):
        return self.content(self.hub.blobs[oid], {"ETag": f'"{oid}"'})

    def resolve(self, repo, revision, path):
        found = self.find_repo(repo)
        sha = found.find(revision)
        content = found.commits[sha].get(path)
        if found.gated:
            raise HubError(403, "GatedRepo", f"Access to model {repo} is restricted: ask for access first.")
        if content is None:
            raise HubError(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
        headers, entry = {"X-Repo-Commit": sha}, file_entry(path, content)
        if "lfs" not in entry:
            return self.content(content, {**headers, "ETag": f'"{entry["oid"]}"'})
        oid = entry["lfs"]["oid"]
        self.hub.blobs[oid] = content
        location = {"Location": f"{self.hub.storage_url}/lfs/{oid}", "X-Linked-Etag": f'"{oid}"'}
        return 302, {**headers, **location, "X-Linked-Size": str(len(content))}, b""

    def content(self, content: bytes, headers: dict[str, str]):
        headers = {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", **headers}
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match:
            return 200, headers, content
        start, end = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
        if start >= len(content):
            raise HubError(416, "RangeNotSatisfiable", "Range Not Satisfiable")
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        return 206, headers, content[start : end + 1]

    def model_info(self, repo, revision=None):
        found = self.find_repo(repo)
        sha = found.find(revision or "main")
        siblings = [{"rfilename": path} for path in found.commits[sha]]
        return as_json(
            {"_id": sha[:24], "id": repo, "modelId": repo, "sha": sha, "private": found.private, "siblings": siblings}
            | {"tags": [], "downloads": 0, "likes": 0}
        )

    def tree(self, repo, revision, path=None):
        files, prefix = self.find_repo(repo).files(revision), f"{path}/" if path else ""
        inside = {name: content for name, content in files.items() if name.startswith(prefix)}
        if path and not inside:
            raise HubError(404, "EntryNotFound", f"{path} does not exist on {revision}")
        folders = {prefix + name.removeprefix(prefix).split("/")[0] for name in inside} - set(inside)
        entries = [
            file_entry(name, content)
            for name, content in inside.items()
            if self.query.get("recursive", "").lower() == "true" or "/" not in name.removeprefix(prefix)
        ]
        entries += [
            {"type": "directory", "oid": hashlib.sha1(folder.encode()).hexdigest(), "size": 0, "path": folder}
            for folder in sorted(folders)
        ]
        return as_json(entries)

    def paths_info(self, repo, revision):
        files = self.find_repo(repo).files(revision)
        if "json" in self.headers.get("Content-Type", ""):
            paths = json.loads(self.body)["paths"]
        else:
            paths = parse_qs(self.body.decode()).get("paths", [])
        return as_json([file_entry(path, files[path]) for path in paths if path in files])

    def refs(self, repo):
        branches = self.find_repo(repo).branches
        entries = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches.items()]
        return as_json({"branches": entries, "converts": [], "tags": []})


def as_json(content, status: int = 200):
    return status, {"Content-Type": "application/json"}, json.dumps(content).encode()


@functools.lru_cache(maxsize=256)  # hashing large files takes longer than all else
def file_entry(path: str, content: bytes) -> dict:
    """A file as the tree shows it; its id is git's, of the content or of the pointer to it."""
    entry = {"type": "file", "path": path, "size": len(content)}
    stored = content
    if path.endswith(LFS_SUFFIXES):
        oid = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
        stored = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {len(content)}\n".encode()
    entry["oid"] = hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()
    return entry
