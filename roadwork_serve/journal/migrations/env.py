"""What alembic runs. The connection is given by `roadwork_serve.journal.migrate`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
context.run_migrations()
