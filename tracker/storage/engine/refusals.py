"""Maps the error texts of PostgreSQL and libpq for a refused connection to a sentence with what to do.

A failed connection has no error code, so Homing matches the text. An unknown text is shown without the password.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import quote

OUT_OF_RESOURCES: Final = "the database server has no free disk space, memory or connections"
STOPPING: Final = "the database server is stopping, starting, or cancelled the statement"
USER: Final = "the database server refuses the user or the password. Check HOMING_DATABASE_URL"
NO_DATABASE: Final = "the database does not exist. Create it, or check HOMING_DATABASE_URL"
LOST: Final = (
    "the database server cannot be reached. Check that it runs, and check the host and port in HOMING_DATABASE_URL"
)
OPTION: Final = "{option} in HOMING_DATABASE_URL is not valid. Correct the text after the question mark"
POOLER: Final = (
    "HOMING_DATABASE_URL leads to a connection pooler (such as PgBouncer) that gives each transaction another session. "
    "Homing cannot use it. Name PostgreSQL itself, or a pool in session mode"
)
# The order matters: a text about TLS may also name a certificate, a timeout or a reset.
# For the texts of libpq see https://github.com/postgres/postgres/tree/master/src/interfaces/libpq
REFUSALS: Final[Sequence[tuple[str, str]]] = (
    (
        r'invalid (?!integer)(\w+) value|connection option "(\w+)"|bad value for (\w+)|invalid (port) n|weak (sslmode)',
        OPTION,
    ),
    (
        r"unsupported startup parameter|bouncer config error|pgbouncer|no such database|_timeout|server.login",
        "the connection pooler in front of the database refuses the connection. Check its configuration and its log",
    ),
    (r"too many (clients|connections)|connection slots|max_client_conn", OUT_OF_RESOURCES),
    (r"starting up|shutting down|recovery mode|not yet accepting|in progress", STOPPING),
    (
        r"pg_hba\.conf",
        "pg_hba.conf does not allow this user, host or encryption. Add an entry on the server, or change sslmode",
    ),
    (
        r"not currently accepting connections",
        "the database accepts no connections. Run ALTER DATABASE … ALLOW_CONNECTIONS true",
    ),
    (
        r"permission denied for database",
        "the user may not connect to the database. Run GRANT CONNECT ON DATABASE … TO …",
    ),
    (r'role ".*" (does not exist|is not permitted)|password|SASL|(?<!certificate )authentication failed', USER),
    (r'database ".*" does not exist', NO_DATABASE),
    (
        r"channel binding|channel_binding",
        "the server has no channel binding, which channel_binding=require asks for. Use TLS and SCRAM, or leave it out",
    ),
    (
        r"session is (not )?read-only|hot standby|target_session_attrs",
        "no server has the role that target_session_attrs asks for. Check the hosts, or leave it out",
    ),
    (
        r"does not support SSL|without SSL|sslmode",
        "the server offers no TLS, which sslmode asks for. Turn TLS on there, or change sslmode",
    ),
    (
        r"private key|(client|bad) certificate|certificate (present|required|auth)|(read|load) certificate|unknown ca",
        "the client certificate cannot be used. Check sslcert, sslkey and the permissions of these files",
    ),
    (
        r"certificate verify failed|does not match host|root certificate|root\.crt|CRL|host name must be specified",
        "the server's certificate is not trusted. Check sslrootcert, sslcrl and the host name",
    ),
    (
        r"received invalid response|expected authentication request|unsupported frontend protocol",
        "there is no PostgreSQL server that Homing knows at this address. Check the host and the port",
    ),
    (r"\bSSL\b|\bTLS\b|sslv3|tlsv1", "TLS with the database server failed. Check sslmode and its TLS settings"),
    (r"GSS", "GSSAPI with the database server failed. Check gssencmode, or set gssencmode=disable"),
    (
        r"resolve|translate host|Name or service not known|nodename nor servname|idna|label too long",
        "the name of the database server is not known. Check the host in HOMING_DATABASE_URL and the network",
    ),
    (r"Permission denied", "this user may not open the database server's socket. Check its permissions"),
)
# Network errors. LOST describes them all.
SILENCE: Final = re.compile(
    r"refused|time(d |)out|No route|unreachable|No such file|closed the connection|connection (is|was) (lost|closed)|"
    r"reset by peer|could not (receive|send)|Broken pipe|EOF|Is the server running|bad file descriptor",
    re.IGNORECASE,
)
MAX_REASON_LENGTH: Final = 200


def reason_of(text: str, password: str | None) -> str:
    """Return why a connection failed and what to do, from the error text of the server or of libpq."""
    for pattern, sentence in REFUSALS:
        if found := re.search(pattern, text):
            return sentence.format(option=next(filter(None, found.groups()), ""))
    if "FATAL" not in text and SILENCE.search(text):
        return LOST
    return f"the connection to the database server failed: {_shown(text, password)}"


def _shown(text: str, password: str | None) -> str:
    """Return the text in one line, without libpq's prefix up to FATAL, and without the password."""
    for secret in {password, quote(password, safe="")} if password else set():
        text = text.replace(secret, "***")
    line = re.sub(r"[^\x20-\x7e\u00a1-\uffff]+", " ", text.rpartition("FATAL:")[2]).strip()
    return line[:MAX_REASON_LENGTH] or "no reason was given"
