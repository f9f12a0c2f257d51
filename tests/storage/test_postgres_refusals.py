"""Test refusals by PostgreSQL: /readyz and the log say what to do."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

import psycopg
import pytest

from tests.support.builders import a_task, an_entry, writing
from tests.support.database_proxy import database_proxy
from tests.support.postgres import Postgres
from tracker.errors import ServiceError, StoreUnavailable
from tracker.storage.store import Store


async def refusal(url: str) -> str:
    store = Store(url, busy=timedelta(milliseconds=50))
    with pytest.raises(ServiceError) as refused:
        await store.open()
    return refused.value.detail


async def test_missing_database_is_named(postgres: Postgres) -> None:
    assert "does not exist. Create it" in await refusal(postgres.url("nonexistent"))


async def test_refused_user_is_named(postgres: Postgres) -> None:
    refused_url = postgres.fresh().replace("postgres@", "a_stranger:made-up-password@", 1)
    message = await refusal(refused_url)
    assert "refuses the user" in message
    assert "made-up" not in message


async def test_absent_server_is_reported_unreachable() -> None:
    message = await refusal("postgresql://u:made-up-password@127.0.0.1:9/homing")
    assert "cannot be reached" in message
    assert "HOMING_DATABASE_URL" in message


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("target_session_attrs=standby", "no server has the role that target_session_attrs asks for"),
        ("target_session_attrs=nonsense", "target_session_attrs in HOMING_DATABASE_URL is not valid"),
        ("sslmode=nonsense", "sslmode in HOMING_DATABASE_URL is not valid"),
        ("connect_timeout=nonsense", "connect_timeout in HOMING_DATABASE_URL is not valid"),
        ("port=nonsense", "an option in HOMING_DATABASE_URL is not valid"),
    ],
)
async def test_refused_libpq_option_is_named(postgres: Postgres, option: str, message: str) -> None:
    assert message in await refusal(f"{postgres.url('postgres')}&{option}")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("sslmode=require", "offers no TLS, which sslmode asks for"),
        ("channel_binding=require", "channel_binding=require asks for"),
    ],
)
async def test_missing_server_tls_is_named(postgres: Postgres, option: str, message: str) -> None:
    url = postgres.url("postgres")
    async with database_proxy(f"{url.partition('host=')[2]}/.s.PGSQL.5432") as line:
        assert message in await refusal(f"postgresql://postgres@127.0.0.1:{line.port}/postgres?{option}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("ALTER ROLE {role} NOLOGIN", "refuses the user"),
        ("REVOKE CONNECT ON DATABASE {database} FROM PUBLIC", "Run GRANT CONNECT"),
        ("ALTER DATABASE {database} ALLOW_CONNECTIONS false", "ALLOW_CONNECTIONS true"),
        ("SELECT 1", "Grant it the schema, its tables and sequences"),
    ],
)
async def test_missing_user_privilege_is_named(postgres: Postgres, change: str, message: str) -> None:
    url = postgres.fresh()
    database = url.rpartition("?")[0].rpartition("/")[2]
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {database} LOGIN".encode())
        admin.execute(change.format(role=database, database=database).encode())

    assert message in await refusal(url.replace("postgres@", f"{database}@", 1))

    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {database} ALLOW_CONNECTIONS true".encode())
        admin.execute(f"DROP ROLE {database}".encode())


async def test_dropped_table_is_named(postgres: Postgres) -> None:
    url = postgres.fresh()
    store = Store(url)
    await store.open()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute("DROP TABLE counters, observations CASCADE")

    with pytest.raises(StoreUnavailable, match="a table of Homing is missing"):
        await store.ping()
    with pytest.raises(StoreUnavailable, match="a table of Homing is missing"):
        await store.apply([writing(a_task(), entries=(an_entry(a_task(), "1"),))])
    await store.close()


@contextmanager
def taken(url: str) -> Iterator[None]:
    """Take all connections that a database allows for ordinary users."""
    with psycopg.connect(url, autocommit=True) as admin, ExitStack() as stack:
        name = admin.info.dbname
        admin.execute(f"CREATE ROLE {name} LOGIN; ALTER ROLE {name} CONNECTION LIMIT 1".encode())
        stack.enter_context(psycopg.connect(url.replace("postgres@", f"{name}@", 1)))
        yield


async def test_server_connection_limit_is_reported_and_recovers(postgres: Postgres) -> None:
    url = postgres.fresh()
    with psycopg.connect(url) as connection:
        ours = url.replace("postgres@", f"{connection.info.dbname}@", 1)
    with taken(url):
        assert "no free disk space, memory or connections" in await refusal(ours)
        with psycopg.connect(url, autocommit=True) as admin:
            admin.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {admin.info.dbname}".encode())
            admin.execute(f"ALTER ROLE {admin.info.dbname} CONNECTION LIMIT -1".encode())
        store = Store(ours)
        await store.open()
        await store.close()


async def test_batch_without_connection_fails_until_one_is_free(postgres: Postgres) -> None:
    url = postgres.fresh()
    store = Store(url)
    await store.open()
    await store.apply([writing(a_task(1))])
    with psycopg.connect(url) as connection:
        name = connection.info.dbname
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false".encode())
        admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await store.apply([writing(a_task(2))])
        admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true".encode())
    await store.apply([writing(a_task(2))])
    await store.close()


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
async def test_database_encoding_not_utf_8_is_refused(postgres: Postgres, encoding: str) -> None:
    name = f"in_{encoding.lower()}"
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
    url = postgres.url(name)
    with pytest.raises(StoreUnavailable, match="Create it with ENCODING 'UTF8'"):
        await Store(url).migrate()
    assert encoding in await refusal(url)


async def test_database_in_utf_8_accepts_any_text(postgres: Postgres) -> None:
    store = Store(postgres.fresh())
    await store.open()
    task = a_task(request={"prompt": "\u732b \U0001f408"})
    await store.apply([writing(task)])
    assert await store.tasks.get(task.id) == task
    await store.close()
