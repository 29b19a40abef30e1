"""The program beside the work: `python program.py prepare|agent CONTROL SESSION`, started detached by a provider.

In and beside containers also `relay LISTEN TARGET [LOCK]`: the way out of them.

It runs by path with any Python from 3.9 on and needs nothing but this folder; secrets come as one line of JSON on its
standard input. It exits with 0 also when another one holds the session: that one is adopted.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent

# What lies in or beside this folder must not shadow the standard library.
sys.path[:] = [*(path for path in sys.path if Path(path).resolve() != HERE), str(HERE.parent)]

# Each mode imports what it needs: a relay, of which a container has two, starts three times as fast as a session.
# ruff: noqa: PLC0415


def main(arguments: "list[str]") -> int:
    """Run one session, or a relay, as the arguments say."""
    if arguments[:1] == ["relay"] and len(arguments) in (3, 4):
        from workspaces.inside import relay

        return relay.run(*arguments[1:])
    if len(arguments) != 3 or arguments[0] not in ("prepare", "agent"):  # noqa: PLR2004 - mode, control, session
        sys.stderr.write(f"{__doc__}\n")
        return 2
    return run(*arguments)


def run(mode: str, control: str, name: str) -> int:
    """Run one session in this mode."""
    from workspaces.inside.session import Session, read_secrets

    secrets = read_secrets(sys.stdin.buffer)
    session = Session(Path(control), name)
    if not session.claim():
        return 0
    if mode == "prepare":
        from workspaces.inside import prepare

        prepare.run(session, secrets)
    else:
        from workspaces.inside import agent

        agent.run(session, secrets)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
