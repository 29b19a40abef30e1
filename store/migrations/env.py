"""How Alembic reaches the database: by the URL that `store.migrate` was given."""

from alembic import context
from sqlalchemy import create_engine

from store.models import Base

engine = create_engine(context.config.attributes["url"])
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
engine.dispose()
