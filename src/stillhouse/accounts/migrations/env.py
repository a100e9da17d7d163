"""How Alembic runs here: inside the connection and transaction that `database` gives it."""

from alembic import context

from stillhouse.accounts.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
context.run_migrations()
