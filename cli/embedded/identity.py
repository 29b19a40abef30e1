"""Who the embedded PostgreSQL runs as. It refuses uid 0, so root lends it an unprivileged uid."""

import os
import pwd
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

LENT_USERS = ("postgres", "nobody")  # existing accounts only: no account is made on somebody's machine
DAC_OVERRIDE, DAC_READ_SEARCH = 1, 2  # capability numbers, capabilities(7)


class NoIdentityError(RuntimeError):
    """PostgreSQL cannot run here as this user; the message says how to mend it."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A uid and gid, and the argv prefix that a process takes them on with (empty: it is us)."""

    uid: int
    gid: int
    prefix: tuple[str, ...] = ()

    def give(self, path: Path) -> None:
        """Make this identity the owner of a file or folder."""
        if self.prefix:
            os.chown(path, self.uid, self.gid)


def identity_for(data: Path, *, binary: Path) -> Identity:
    """Return who runs a server on `data` with `binary`: us, or as root the owner of `data` or else a lent account.

    A parent folder that the lent uid may not pass (`/root`, a 0700 temporary folder) keeps its mode; the process gets
    one ambient capability instead, the weakest that does. Raises NoIdentityError.
    """
    owner = data.stat().st_uid if data.exists() else None
    if os.geteuid() != 0:
        if owner not in {None, os.geteuid()}:
            raise NoIdentityError(
                f"{data} belongs to uid {owner} and this is uid {os.geteuid()}: "
                "go on as the user that made it, or choose another data directory"
            )
        return Identity(os.geteuid(), os.getegid())
    account = _account(owner)
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise NoIdentityError(
            "PostgreSQL refuses to run as root, and setpriv (package util-linux), which would start it as "
            f"{account.pw_name}, is missing: install it, or run this as an ordinary user"
        )
    lent = (setpriv, f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups", "--no-new-privs")
    return Identity(account.pw_uid, account.pw_gid, (*lent, *_capability(account, data=data, binary=binary)))


def _account(owner: int | None) -> pwd.struct_passwd:
    if owner:
        try:
            return pwd.getpwuid(owner)
        except KeyError as error:
            raise NoIdentityError(
                f"the data directory belongs to uid {owner}, which is no account here: "
                "give it to one with chown, or choose another data directory"
            ) from error
    for name in LENT_USERS:
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise NoIdentityError(
        f"PostgreSQL refuses to run as root, and none of the accounts {', '.join(LENT_USERS)} exists: "
        "run this as an ordinary user"
    )


def _capability(account: pwd.struct_passwd, *, data: Path, binary: Path) -> tuple[str, ...]:
    real = binary.resolve()
    closed = [
        *_closed(data.absolute().parents, account, stat.S_IXOTH),
        *_closed(real.parents, account, stat.S_IXOTH),
    ]
    locked = _closed((real,), account, stat.S_IROTH | stat.S_IXOTH)
    if not closed and not locked:
        return ("--bounding-set=-all",)
    held = _held_capabilities()
    if DAC_READ_SEARCH in held and not locked:
        name = "dac_read_search"
    elif DAC_OVERRIDE in held:
        name = "dac_override"
    else:
        raise NoIdentityError(
            f"PostgreSQL would run as {account.pw_name} (it refuses root), which may not pass "
            f"{', '.join(map(str, [*closed, *locked]))}, and this root has no capability to lend: choose a data "
            "directory and an installation that others may pass (mode o+x), or run this as an ordinary user"
        )
    # access(2) ignores the capabilities of a non-root uid unless no_setuid_fixup is set, and PostgreSQL asks access(2).
    sets = (f"--inh-caps=-all,+{name}", f"--ambient-caps=-all,+{name}", f"--bounding-set=-all,+{name}")
    return (*sets, "--securebits=+no_setuid_fixup")


def _closed(paths: Iterable[Path], account: pwd.struct_passwd, needed: int) -> list[Path]:
    """Return the paths whose mode denies this account the `needed` bits, written as those of `others`."""
    denied = []
    for path in paths:
        if not path.exists():
            continue
        status = path.stat()
        shift = 6 if status.st_uid == account.pw_uid else 3 if status.st_gid == account.pw_gid else 0
        if (status.st_mode >> shift) & needed != needed:
            denied.append(path)
    return denied


def _held_capabilities() -> frozenset[int]:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapPrm:"):
            mask = int(line.split()[1], 16)
            return frozenset(bit for bit in range(64) if mask >> bit & 1)
    return frozenset()
