"""A journal in SQLite and one in PostgreSQL: every test runs with both."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from roadwork_serve.journal.store import Store
from tests.journal import postgres


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    if (folder := postgres.programs()) is None:
        pytest.skip("no PostgreSQL is installed (Debian: postgresql), so the journal is tested with SQLite alone")
    with postgres.server(folder) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty journal."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'journal.db'}"
        return
    server, name = request.getfixturevalue("postgres_url"), f"journal_{uuid.uuid4().hex}"
    admin = create_engine(server.replace("postgresql:", "postgresql+psycopg:"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield server.replace("/postgres?", f"/{name}?")
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


@pytest.fixture
def opened(url: str, tmp_path: Path) -> Iterator[Callable[..., Store]]:
    """Return a function that opens the journal; all stores are closed at the end."""
    stores: list[Store] = []

    def open_store(cap: int | None = None) -> Store:
        stores.append(Store.open(url, media_folder=tmp_path / "media" if cap else None, max_media_bytes=cap))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Callable[..., Store]) -> Store:
    return opened()
