"""A hub of models on this machine: the few answers that huggingface_hub asks for, and a list of what was asked."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def fake_hub(repo, folder, commit=COMMIT):
    """Serve the files of a folder as `repo`, whose main is `commit`; yield the address and the list of requests."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            files = sorted(folder.iterdir())
            if path in (f"/api/models/{repo}/revision/{rev}" for rev in ("main", commit)):
                body = {"id": repo, "sha": commit, "siblings": [{"rfilename": f.name} for f in files]}
                self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
            elif path == f"/api/models/{repo}/tree/{commit}":
                body = [
                    {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": f"{i:040x}"} for i, f in enumerate(files)
                ]
                self.answer(200, json.dumps(body).encode(), Content_Type="application/json")
            elif path.startswith(f"/{repo}/resolve/{commit}/") and (folder / path.split("/")[-1]).is_file():
                file = folder / path.split("/")[-1]
                self.answer(200, file.read_bytes(), ETag=f'"{files.index(file):040x}"', X_Repo_Commit=commit)
            else:
                error = "RevisionNotFound" if path.startswith(f"/api/models/{repo}/") else "RepoNotFound"
                self.answer(404, X_Error_Code=error)

        do_HEAD = do_GET

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
