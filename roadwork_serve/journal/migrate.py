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
        if _current(connection) == _newest() and to == "head":
            return
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        known = {script.revision for script in _scripts().walk_revisions()}
        if (current := _current(connection)) not in known | {None}:
            raise ConfigError(
                f"a later version wrote this journal (revision {current}); update roadwork-serve, or name another "
                "journal"
            )
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, to)


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(resources.files("roadwork_serve.journal") / "migrations"))
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _newest() -> str | None:
    return _scripts().get_current_head()


def _current(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
