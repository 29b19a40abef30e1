"""What must be known before anybody asks: Temporal's search attributes, and the first two API keys. Safe to repeat."""

import asyncio
import os
from pathlib import Path

from cli.engine import register_attributes
from domain.names import DEFAULT_PROJECT, NodeId, Scope
from settings import SECRETS_DIR, Settings
from store import keys
from store.engine import Database
from worker import connect


async def prepare(settings: Settings, admin_key: str) -> list[str]:
    """Register what is missing and store the keys' hashes; returns the search attributes that were added."""
    added = await register_attributes(await connect())
    database = Database(settings.database_url, pool=1)
    node_token = settings.node_token.get_secret_value()
    try:
        async with database.begin("deploy.keys") as connection:
            for name, key, scopes, node in (
                ("admin", admin_key, (Scope.ADMIN,), None),
                ("node", node_token, (Scope.NODES_WRITE,), NodeId(settings.node_id)),
            ):
                digest = keys.sha256_of(key)
                await keys.ensure(
                    connection, sha256=digest, project=DEFAULT_PROJECT, name=name, scopes=scopes, node_id=node
                )
    finally:
        await database.close()
    return added


def main() -> None:
    """Prepare what the environment names."""
    admin_key = (Path(os.environ[SECRETS_DIR]) / "taskrunner_admin_key").read_text().strip()
    added = asyncio.run(prepare(Settings(), admin_key))
    print(f"search attributes added: {', '.join(added) or 'none'}; keys: admin, node")


if __name__ == "__main__":
    main()
