"""Alembic migrations of the journal's tables, run by `roadwork_serve.journal.migrate`."""
