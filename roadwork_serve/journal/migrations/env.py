"""Entry point of alembic. `roadwork_serve.journal.migrate` provides the connection."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
context.run_migrations()
