"""Test that any bad HOMING_DATABASE_URL leads to a one-line error without the password."""

import asyncio
import os
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from homing.server.serving_lock import ServingLock
from tests.support.examples import examples
from tracker.errors import ServiceError
from tracker.settings import load_settings
from tracker.storage.store import Store

SECRET = "made-up-hidden-word"
# Nothing listens on this address. A host name would need a DNS lookup.
HOSTS = ["127.0.0.1:9", "[::1]:9", "", "a..b", "%00", "[::", "[v1.x]", "127.0.0.1:99999", "127.0.0.1:0", "x" * 300, ","]
OPTIONS = [
    *("application_name", "channel_binding", "connect_timeout", "gssencmode", "host", "passfile", "port", "sslcert"),
    *("sslcrl", "sslkey", "sslmode", "sslrootcert", "target_session_attrs", "options", "password", "service", "uri"),
]
VALUES = ["", "x", "require", "disable", "-1", "9", "99999999999", "127.0.0.1:9", "/nowhere", "%00", "%F0", "\udcff"]

odd = st.text(st.sampled_from("aZ0-_.~%:@/?#[]&=+,'\"\\ \t\n\x00é\U0001f408"), max_size=6)
option = st.tuples(st.sampled_from(OPTIONS) | odd, st.sampled_from(VALUES) | odd).map("=".join)
server = st.builds(
    lambda scheme, user, colon, host, path, options: (
        f"{scheme}://{user}{colon}{SECRET}@{host}/{path}?{'&'.join(options)}"
    ),
    st.sampled_from(["postgresql", "postgres", "postgresql+psycopg", "postgre", "POSTGRESQL"]),
    st.just("u") | odd,
    st.sampled_from([":", ":%", ":@"]),
    st.sampled_from(HOSTS),
    st.just("homing") | odd,
    st.lists(option, max_size=3),
)
paths = odd | st.sampled_from(["%00", "x" * 300, "../..", "nowhere/x.db"])
file = st.builds("sqlite://{}{}".format, st.sampled_from(["", "/", "//"]), paths)


@settings(max_examples=examples(150))
@given(url=server | file | odd)
def test_url_error_is_one_line_without_secrets(url: str) -> None:
    here = Path.cwd()
    with TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            output = asyncio.run(opened(url.replace("sqlite:////", f"sqlite:///{folder}/")))
        finally:
            os.chdir(here)

    assert "\n" not in output
    assert SECRET not in output


async def opened(url: str) -> str:
    """Open the database as a command does, and return the error text."""
    environ = {"HOMING_DATABASE_URL": url}
    try:
        loaded = load_settings(environ, None)
        with ServingLock(loaded.database_file):
            store = Store(loaded.database_url)
            await store.open()
            await store.close()
    except ServiceError as error:
        return error.detail
    return loaded.database_name
