"""Bring a journal's tables up to what this version knows."""

from importlib import resources

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

from roadwork_serve.errors import ConfigError

_LOCK = 7_220_915  # of PostgreSQL's advisory locks; any number, the same everywhere


def upgrade(engine: Engine, to: str = "head") -> None:
    """Run the migrations that are missing; of several processes that begin at once one does, the others wait.

    Raises ConfigError for a journal that a later version has written.
    """
    with engine.connect() as connection:
        if _at(connection) == _newest() and to == "head":
            return
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        known = {script.revision for script in _scripts().walk_revisions()}
        if (at := _at(connection)) not in known | {None}:
            raise ConfigError(
                f"the journal is of a later version ({at}); update roadwork-serve, or name another journal"
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


def _at(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()
