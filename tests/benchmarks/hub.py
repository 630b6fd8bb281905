"""A hub on this machine: what the real client asks for when it gets a dataset's file, or a model's files."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """Files by `<repo>/<path>`; `cut` ends the next download after so many bytes."""

    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = COMMIT
    cut: int | None = None
    log: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, range) of every request."""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                """Quiet."""

            def do_HEAD(self):
                self._answer(body=False)

            def do_GET(self):
                self._answer(body=True)

            def _answer(self, body):
                hub.log.append((self.command, self.path, self.headers.get("Range", "")))
                if self.path.startswith("/api/models/"):
                    return self._about_model(self.path.removeprefix("/api/models/").partition("?")[0], body)
                parts = self.path.removeprefix("/datasets").lstrip("/").split("/resolve/")
                if len(parts) != 2:
                    return self._send(404, {}, json.dumps({"error": "no such page"}).encode(), body)
                revision, _, name = parts[1].partition("/")
                data = hub.files.get(f"{parts[0]}/{name}")
                if data is None or revision not in ("main", hub.commit):
                    code = "EntryNotFound" if data is None else "RevisionNotFound"
                    return self._send(404, {"X-Error-Code": code, "X-Repo-Commit": hub.commit}, b"", body)
                headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": hub.commit}
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
                if start:
                    headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
                return self._send(206 if start else 200, headers, data[start:], body)

            def _about_model(self, path, body):
                """Its commit (`<repo>/revision/<revision>`), or the files it has (`<repo>/tree/<revision>`)."""
                owner, name, what, _ = path.split("/")
                prefix = f"{owner}/{name}/"
                files = {key.removeprefix(prefix): data for key, data in hub.files.items() if key.startswith(prefix)}
                if not files:
                    return self._send(404, {"X-Error-Code": "RepoNotFound"}, b"", body)
                listed = [
                    {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for path, data in files.items()
                ]
                said = listed if what == "tree" else {"id": f"{owner}/{name}", "sha": hub.commit}
                return self._send(200, {"Content-Type": "application/json"}, json.dumps(said).encode(), body)

            def _send(self, status, headers, data, body):
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(data))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if body and hub.cut is not None:
                    data, hub.cut = data[: hub.cut], None
                    self.close_connection = True
                if body:
                    self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()
