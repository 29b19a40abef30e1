"""Images made of what this machine has: no registry is asked. `docker import` of small root file systems."""

import contextlib
import io
import os
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

import docker
import docker.errors

from cli.embedded import postgres

WORKSPACE: Final = "taskrunner-test/workspace:1"
# The same with an environment and a volume of its own.
FURNISHED: Final = "taskrunner-test/furnished:1"
BARE: Final = "taskrunner-test/bare:1"
PYTHON: Final = "python:3.11-slim"  # the base of deploy/Dockerfile
POSTGRES: Final = "taskrunner-test/postgres:18"

PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BUSYBOX: Final = Path("/bin/busybox")
LIBRARY: Final = re.compile(r"(?:=> )?(/\S+) \(0x")
LEFT_OUT: Final = frozenset(
    {"site-packages", "test", "tests", "idlelib", "tkinter", "ensurepip", "turtledemo", "config"}
)
SERVER: Final = 999  # the user that PostgreSQL runs as
PASSWD: Final = (
    "root:x:0:0::/root:/bin/sh\nworkspace:x:10001:10001::/workspace/home:/bin/sh\npostgres:x:999:999::/:/bin/sh\n"
)
GROUP: Final = "root:x:0:\nworkspace:x:10001:\npostgres:x:999:\n"
DATA: Final = "var/lib/postgresql/data"
SERVE: Final = f"""#!/bin/sh
set -eu
data=/{DATA}
umask 077
printf '%s' "$POSTGRES_PASSWORD" > /tmp/password
initdb -D $data -U "$POSTGRES_USER" -A scram-sha-256 --pwfile=/tmp/password -E UTF8 --locale=C \\
  --locale-provider=builtin --builtin-locale=C.UTF-8 --no-sync > /dev/null
rm /tmp/password
echo "host all all all scram-sha-256" >> $data/pg_hba.conf
echo "CREATE DATABASE \\"$POSTGRES_DB\\"" | postgres --single -D $data postgres > /dev/null
exec postgres -D $data -c listen_addresses='*' -c fsync=off -c full_page_writes=off -c max_connections=200 \\
  -c timezone=UTC -c jit=off -c unix_socket_directories=/tmp
"""


def libraries(files: Iterable[Path]) -> set[Path]:
    """Return the shared libraries that these programs and libraries need, with the loader."""
    found: set[Path] = set()
    listed = [str(file) for file in files]
    for start in range(0, len(listed), 100):
        # It fails for what is no dynamic program, and tells of the others all the same.
        said = subprocess.run(["ldd", *listed[start : start + 100]], capture_output=True, text=True, check=False)
        found.update(Path(path) for path in LIBRARY.findall(said.stdout))
    return found


class RootFileSystem:
    """A tar archive of a root file system in the making."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.TarFile(fileobj=self._buffer, mode="w")
        self._there: set[str] = set()
        for folder, mode in (("tmp", 0o1777), ("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("workspace", 0o755)):
            self.folder(folder, mode)
        self.text("etc/passwd", PASSWD)
        self.text("etc/group", GROUP)
        self.copy(BUSYBOX, "bin/busybox")
        applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
        for applet in applets:
            self.link(f"bin/{applet}", "/bin/busybox")
        self.link("usr/bin/env", "/bin/busybox")

    def folder(self, name: str, mode: int = 0o755, owner: int = 0) -> None:
        """Add a folder."""
        entry = tarfile.TarInfo(name)
        entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, mode, owner, owner
        self._add(entry)

    def text(self, name: str, content: str, mode: int = 0o644) -> None:
        """Add a file of this content."""
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = len(content.encode()), mode
        self._add(entry, io.BytesIO(content.encode()))

    def link(self, name: str, target: str) -> None:
        """Add a symbolic link."""
        entry = tarfile.TarInfo(name)
        entry.type, entry.linkname = tarfile.SYMTYPE, target
        self._add(entry)

    def copy(self, source: Path, name: str | None = None) -> None:
        """Add a file of this machine, under its own path if no other is given."""
        entry = tarfile.TarInfo((name or str(source)).lstrip("/"))
        real = source.resolve()
        entry.size, entry.mode = real.stat().st_size, 0o755 if os.access(real, os.X_OK) else 0o644
        with real.open("rb") as file:
            self._add(entry, file)

    def programs(self, files: Iterable[Path], *, under: str | None = None) -> None:
        """Add programs or libraries, and the libraries that they need."""
        listed = list(files)
        for file in listed:
            self.copy(file, f"{under}/{file.name}" if under else None)
        for library in sorted(libraries(listed)):
            self.copy(library)

    def tree(self, root: Path, *, without: frozenset[str] = frozenset()) -> Iterator[Path]:
        """Add a folder under its own path; give its shared libraries."""
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if name not in without and not name.startswith("config-")]
            for name in files:
                path = Path(folder, name)
                if path.exists() and path.suffix != ".a" and ".opt-" not in name:
                    self.copy(path)
                    if ".so" in path.suffixes:
                        yield path

    def archive(self) -> bytes:
        """Return the archive."""
        self._tar.close()
        return self._buffer.getvalue()

    def _add(self, entry: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        entry.name = os.path.normpath(entry.name)
        if entry.name not in self._there:
            self._there.add(entry.name)
            self._tar.addfile(entry, content)


def workspace() -> bytes:
    """Return busybox, Python with its standard library, and git."""
    root = RootFileSystem()
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    modules = list(root.tree(base / "lib" / version, without=LEFT_OUT))
    for name in (version, "python3"):
        root.copy(base / "bin" / version, str(base / "bin" / name))
    for library in sorted(libraries([base / "bin" / version, *modules])):
        root.copy(library)
    for name in ("python3", "python"):
        root.link(f"usr/local/bin/{name}", str(base / "bin" / version))
    git = Path(subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout.strip())
    root.programs(
        [Path("/usr/bin/git"), *(path for name in ("git-remote-http", "git-sh-setup") if (path := git / name).exists())]
    )
    return root.archive()


def server() -> bytes:
    """Return busybox and PostgreSQL, as the image of that name behaves."""
    root = RootFileSystem()
    installed = postgres.binaries().parent
    modules = list(root.tree(installed / "lib"))
    list(root.tree(installed / "share"))
    programs = [installed / "bin" / name for name in ("postgres", "initdb", "psql", "pg_isready")]
    root.programs(programs)
    for library in sorted(libraries(modules)):
        root.copy(library)
    for program in programs:
        root.link(f"usr/local/bin/{program.name}", str(program))
    root.folder(DATA, 0o700, SERVER)
    root.text("usr/local/bin/docker-entrypoint.sh", SERVE, 0o755)
    return root.archive()


def bare() -> bytes:
    """Return busybox alone: no Python."""
    return RootFileSystem().archive()


def python() -> bytes:
    """Return a Debian with its Python, as the image of that name has it, and with this machine's authorities."""
    packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        root = Path(folder)
        subprocess.run(
            ["debootstrap", "--variant=minbase", packages, "bookworm", root], check=True, capture_output=True
        )
        (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        shutil.copy(ssl.get_default_verify_paths().openssl_cafile, root / "etc/ssl/certs/ca-certificates.crt")
        shutil.rmtree(root / "var/cache/apt/archives")
        return subprocess.run(["tar", "-C", root, "-c", "."], check=True, capture_output=True).stdout


MADE: Final[Mapping[str, tuple[Callable[[], bytes], Sequence[str]]]] = {
    WORKSPACE: (workspace, ()),
    FURNISHED: (workspace, ("ENV FURNISHED=yes", "VOLUME /cache")),
    BARE: (bare, ()),
    PYTHON: (python, ()),
    POSTGRES: (
        server,
        ('ENTRYPOINT ["/usr/local/bin/docker-entrypoint.sh"]', "EXPOSE 5432", f"ENV PATH={PATH}", f"USER {SERVER}"),
    ),
}


def ensure(engine: str, name: str) -> str:
    """Let the engine have this image; return its name."""
    make, changes = MADE[name]
    with contextlib.closing(docker.DockerClient(base_url=engine)) as client:
        try:
            client.images.get(name)
        except docker.errors.ImageNotFound:
            repository, _, tag = name.partition(":")
            client.api.import_image_from_data(make(), repository=repository, tag=tag, changes=list(changes))
    return name
