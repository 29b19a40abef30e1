"""A registry of one image, as small as an engine's pull allows: the distribution API, read only, on loopback."""

import contextlib
import gzip
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

NAME: Final = "team/workspace"
TAG: Final = "1"
MANIFEST: Final = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG: Final = "application/vnd.docker.container.image.v1+json"
LAYER: Final = "application/vnd.docker.image.rootfs.diff.tar.gzip"
JSON: Final = "application/json"
UNKNOWN: Final = b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'


def digest_of(content: bytes) -> str:
    """Return the name of a content."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Registry:
    """What is served, by path, and what was asked for."""

    port: int
    digest: str
    served: dict[str, tuple[str, bytes]]
    asked: list[str] = field(default_factory=list)

    @property
    def image(self) -> str:
        """The image's name for an engine of this machine."""
        return f"127.0.0.1:{self.port}/{NAME}:{TAG}"

    @property
    def pinned(self) -> str:
        """The same by its digest."""
        return f"127.0.0.1:{self.port}/{NAME}@{self.digest}"


def contents(root: bytes) -> tuple[str, dict[str, tuple[str, bytes]]]:
    """Return the digest of an image of this root file system, a tar archive, and all that a pull asks for, by path."""
    layer = gzip.compress(root, 1, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(root)]},
        }
    ).encode()
    described = [
        {"mediaType": kind, "size": len(content), "digest": digest_of(content)}
        for kind, content in ((CONFIG, config), (LAYER, layer))
    ]
    manifest = json.dumps(
        {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]}
    ).encode()
    blobs = {
        f"/v2/{NAME}/blobs/{digest_of(content)}": ("application/octet-stream", content) for content in (config, layer)
    }
    manifests = {f"/v2/{NAME}/manifests/{name}": (MANIFEST, manifest) for name in (TAG, digest_of(manifest))}
    return digest_of(manifest), {"/v2/": (JSON, b"{}")} | blobs | manifests


@contextlib.contextmanager
def serving(root: bytes) -> Iterator[Registry]:
    """Give a registry with an image of this root file system."""
    digest, served = contents(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            registry.asked.append(self.path)
            kind, content = registry.served.get(self.path, (JSON, UNKNOWN))
            self.send_response(404 if content is UNKNOWN else 200)
            self.send_header("Docker-Content-Digest", digest_of(content))
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET  # noqa: N815 - the name that the library calls

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry = Registry(server.server_port, digest, served)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
