"""Migration of a journal's tables to the current revision."""

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from roadwork_serve.errors import ConfigError

_LOCK = 7_220_915  # an advisory lock of PostgreSQL; any number, the same in every process


def upgrade(engine: Engine, to: str = "head") -> None:
    """Run the missing migrations in one transaction. Of several processes that start at once, one runs them.

    Raises ConfigError if a later version wrote the journal.
    """
    with engine.connect() as connection:
        if current_revision(connection) == newest_revision() and to == "head":
            return
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        check_revision(current_revision(connection))
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("roadwork_serve.journal") / "migrations"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def check_revision(revision: str | None) -> None:
    """Raise ConfigError if a later version wrote the journal."""
    if revision not in {script.revision for script in _scripts().walk_revisions()} | {None}:
        raise ConfigError(
            f"a later version wrote this journal (revision {revision}); update roadwork-serve, or name another journal"
        )


def newest_revision() -> str | None:
    """Return the revision of the tables that this version writes."""
    return _scripts().get_current_head()


def current_revision(connection: Connection) -> str | None:
    """Return the revision of a journal's tables; None without any."""
    return MigrationContext.configure(connection).get_current_revision()
