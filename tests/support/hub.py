"""A stand-in of the Hugging Face Hub's HTTP API on the loopback: repositories in memory."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Hub:
    """What was uploaded, and which files were asked for.

    Attributes:
        url: of the server.
        repositories: files by repository id, then by path.
        private: which repositories are private.
        fetched: repository and path of every file that was sent.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.fetched: list[tuple[str, str]] = []

    def commit_of(self, name: str) -> str:
        files = self.repositories[name]
        return hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()


@contextmanager
def serving() -> Iterator[Hub]:
    """Run the server while the context is open."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    hub = Hub(f"http://127.0.0.1:{server.server_port}")
    server.hub = hub  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    @property
    def hub(self) -> Hub:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet."""

    def _send(self, content: object, status: int = 200, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        words = urlsplit(self.path).path.strip("/").split("/")
        if words == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = (
                f"{asked['organization']}/{asked['name']}"
                if asked.get("organization")
                else asked["name"]
            )
            self.hub.repositories.setdefault(name, {})
            self.hub.private[name] = bool(
                asked.get("private") or asked.get("visibility") == "private"
            )
            self._send({"url": f"{self.hub.url}/{name}", "name": name})
        elif words == ["api", "validate-yaml"]:
            self._send({"errors": [], "warnings": []})
        elif words[-2] == "preupload":
            files = json.loads(body)["files"]
            told = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self._send({"files": told})
        elif words[-2] == "commit":
            name = "/".join(words[2:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.hub.repositories[name][line["value"]["path"]] = content
            commit = self.hub.commit_of(name)
            url = f"{self.hub.url}/{name}/commit/{commit}"
            self._send({"success": True, "commitUrl": url, "commitOid": commit})
        else:
            self._send({"error": "unknown"}, 404)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        words = [unquote(word) for word in urlsplit(self.path).path.strip("/").split("/")]
        is_api = words[:2] == ["api", "models"]
        name = "/".join(words[2:4] if is_api else words[:2])
        files = self.hub.repositories.get(name)
        if files is None:
            self._send({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
        elif is_api and "tree" in words:
            entries = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
                for path, content in files.items()
            ]
            self._send(entries)
        elif is_api:
            siblings = [{"rfilename": path} for path in files]
            self._send({"id": name, "sha": self.hub.commit_of(name), "siblings": siblings})
        else:
            path = "/".join(words[4:])
            if path not in files:
                self._send({"error": "Entry not found"}, 404, X_Error_Code="EntryNotFound")
                return
            if self.command == "GET":
                self.hub.fetched.append((name, path))
            tag = hashlib.sha1(files[path]).hexdigest()
            self._send(files[path], ETag=f'"{tag}"', X_Repo_Commit=self.hub.commit_of(name))
