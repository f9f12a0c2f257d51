"""Tests of the reasons that Homing shows when PostgreSQL or libpq refuses a connection."""

import pytest

from tracker.storage.engine.refusals import LOST, reason_of

SECRET = "made-up-secret"
TO = 'connection failed: connection to server at "db", port 5432 failed: '


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (TO + 'FATAL:  password authentication failed for user "u"', "refuses the user or the password"),
        (TO + "fe_sendauth: no password supplied", "refuses the user or the password"),
        (TO + "FATAL:  SASL authentication failed", "refuses the user or the password"),
        (TO + 'FATAL:  role "u" is not permitted to log in', "refuses the user or the password"),
        (TO + 'FATAL:  no pg_hba.conf entry for host "::1", user "u", database "d", no encryption', "pg_hba.conf"),
        (TO + 'FATAL:  pg_hba.conf rejects connection for host "::1"', "pg_hba.conf"),
        (TO + 'FATAL:  database "d" is not currently accepting connections', "ALLOW_CONNECTIONS"),
        (TO + 'FATAL:  permission denied for database "d"', "GRANT CONNECT"),
        (TO + "FATAL:  sorry, too many clients already", "no free disk space, memory or connections"),
        (TO + "FATAL:  remaining connection slots are reserved for roles", "no free disk space, memory or connections"),
        (TO + "FATAL:  the database system is starting up", "stopping, starting"),
        (TO + "FATAL:  the database system is not yet accepting connections", "stopping, starting"),
        (TO + "FATAL:  unsupported startup parameter: options", "pooler in front of the database"),
        (TO + "server does not support SSL, but SSL was required", "offers no TLS"),
        (TO + "SSL error: certificate verify failed", "certificate is not trusted"),
        (TO + 'server certificate for "a" does not match host name "b"', "certificate is not trusted"),
        (TO + 'root certificate file "/root/.postgresql/root.crt" does not exist', "certificate is not trusted"),
        (TO + 'could not read root certificate file "x": no start line', "certificate is not trusted"),
        (TO + "SSL error: tlsv1 alert unknown ca", "client certificate cannot be used"),
        (TO + 'FATAL:  certificate authentication failed for user "u"', "client certificate cannot be used"),
        (TO + "FATAL:  connection requires a valid client certificate", "client certificate cannot be used"),
        (TO + 'private key file "k" has group or world access', "client certificate cannot be used"),
        (TO + 'could not read certificate file "c": No such file or directory', "client certificate cannot be used"),
        (TO + "SSL error: unsupported protocol", "TLS with the database server failed"),
        (TO + "channel binding required, but server authenticated client without channel binding", "channel binding"),
        (TO + "session is read-only", "target_session_attrs"),
        (TO + "server is not in hot standby mode", "target_session_attrs"),
        ("connection is bad: GSSAPI encryption required but no credential cache", "gssencmode"),
        ('connection is bad: invalid sslmode value: "x"', "sslmode in HOMING_DATABASE_URL"),
        ('connection is bad: invalid target_session_attrs value: "x"', "target_session_attrs in HOMING_DATABASE_URL"),
        ('invalid integer value "x" for connection option "port"', "port in HOMING_DATABASE_URL"),
        ('connection is bad: invalid port number: "99999"', "port in HOMING_DATABASE_URL"),
        ("bad value for connect_timeout: 'x'", "connect_timeout in HOMING_DATABASE_URL"),
        ("failed to resolve host 'db': [Errno -2] Name or service not known", "name of the database server"),
        ("encoding with 'idna' codec failed (UnicodeError: label empty or too long)", "name of the database server"),
        (TO + "received invalid response to SSL negotiation: H", "no PostgreSQL server"),
        (TO + "Connection refused\n\tIs the server running on that host?", LOST),
        (TO + "No such file or directory\n\tIs the server running locally?", LOST),
        ("connection timeout expired", LOST),
        ("consuming input failed: server closed the connection unexpectedly", LOST),
        (TO + f"FATAL:  something new\n\tabout {SECRET}", "failed: something new about ***"),
    ],
)
def test_connection_refusal_has_its_reason(message: str, expected: str) -> None:
    reason = reason_of(message, SECRET)

    assert expected in reason
    assert SECRET not in reason
    assert "\n" not in reason
    assert (reason == LOST) is (expected == LOST)
