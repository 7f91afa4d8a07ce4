"""A W&B server for tests, as far as uploads need one: it takes every run and remembers which came."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Server:
    """Where it listens, and the ids of runs in the order of their uploads."""

    url: str
    runs: list[str] = field(default_factory=list)


@contextmanager
def wandb_server() -> Iterator[Server]:
    """A server on this machine for as long as the context lasts."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            self._answer(_graphql(json.loads(body), server) if self.path == "/graphql" else {})

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self._answer({})

        def do_GET(self) -> None:
            self._answer({})

        def _answer(self, content: dict[str, Any]) -> None:
            body = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = Server(f"http://127.0.0.1:{listener.server_port}")
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()


def _graphql(asked: dict[str, Any], server: Server) -> dict[str, Any]:
    query, variables = asked["query"], asked.get("variables") or {}
    if "upsertBucket" in query:
        if variables["name"] not in server.runs:
            server.runs.append(variables["name"])
        project = {"id": "p", "name": "timetrial", "entity": {"id": "e", "name": "tests"}}
        bucket = {"id": "r", "name": variables["name"], "displayName": "", "config": "{}", "project": project}
        return {"data": {"upsertBucket": {"bucket": {**bucket, "historyLineCount": 0}, "inserted": True}}}
    if "createRunFiles" in query:
        files = [{"name": name, "uploadUrl": f"{server.url}/{name}"} for name in variables["files"]]
        return {"data": {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}}
    return {"data": {}}
