"""The syntax of the values of settings: lists, durations, sizes, URLs and keys.

Every function takes the text of one setting and returns its value, or raises ValueError. The error text continues
"HOMING_…: " and says what is wrong and what to write. Some values are secrets, so no error text repeats a value.

pydantic's types are no replacement. Its durations do not read ``90s`` or ``24h``, its URLs change the text, and its
error messages would have to be replaced. The commands also read their arguments with these functions, without
importing pydantic.
"""

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from tracker.model.database_url import path_of
from tracker.model.keys import ClientKey, NamedKey, key_fault, secret_fault
from tracker.model.published_secrets import is_quoted
from tracker.model.targets import Allowed, read_allowed
from tracker.model.task import Trust
from tracker.model.webhook_keys import webhook_key

SERVERS: Final = frozenset({"postgresql", "postgres"})
SERVER_EXAMPLE: Final = "postgresql://user:password@host/database"
# The options that may follow the name of the database. Homing sets the timeouts of statements and locks itself. A
# password has only one place in the URL.
SERVER_OPTIONS: Final = frozenset({
    "application_name", "channel_binding", "connect_timeout", "gssencmode", "host", "passfile", "port", "sslcert",
    "sslcrl", "sslkey", "sslmode", "sslrootcert", "target_session_attrs",
})  # fmt: skip
ALL_CLIENTS_MARK: Final = "*"
MIN_RETENTION: Final = timedelta(hours=1)
MAX_PORT: Final = 65535
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d)")
_UNITS: Final = {"ms": "milliseconds", "s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SIZE: Final = re.compile(r"(\d{1,12}) ?(|B|KiB|MiB|GiB)", re.IGNORECASE)
_SIZES: Final = {"": 1, "b": 1, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}


def entries(text: str) -> tuple[str, ...]:
    """Split a comma-separated list. Blanks around the commas and empty entries are ignored."""
    return tuple(entry for part in text.split(",") if (entry := part.strip()))


def duration(text: str) -> timedelta:
    """Read a duration such as ``24h``, ``90s`` or ``1h30m``: above zero and at most ten years."""
    total = timedelta()
    rest = text.strip().lower()
    while match := _DURATION.match(rest):
        total += timedelta(**{_UNITS[match[2]]: float(match[1])})
        rest = rest[match.end() :].lstrip()
    if rest or not timedelta() < total <= timedelta(days=3660):
        raise ValueError("the value is not valid. Write a duration such as 90s, 30m, 24h or 1h30m")
    return total


def durations(text: str) -> Mapping[str, timedelta]:
    """Read ``images/omni-image=2h,…``: a duration per kind."""
    result: dict[str, timedelta] = {}
    for entry in entries(text):
        kind, equals, value = entry.partition("=")
        if not equals or not kind.strip():
            raise ValueError("the value is not valid. Write a duration per kind, such as images/omni-image=2h")
        result[kind.strip()] = duration(value)
    return result


def retention(text: str) -> timedelta:
    """Read how long finished tasks are kept. The minimum gives clients time to read them."""
    result = duration(text)
    if result < MIN_RETENTION:
        raise ValueError(
            "the value is too short. Write an hour or longer, such as 90d. Leave it out to keep tasks forever"
        )
    return result


def size(text: str) -> int:
    """Read a size such as ``32MiB``, or a number of bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise ValueError("the value is not valid. Write a size such as 32MiB or a number of bytes")
    return int(match[1]) * _SIZES[match[2].lower()]


def port(text: str) -> int:
    """Read a TCP port. With 0 the system chooses one."""
    if re.match(r"(?:tcp|udp|sctp)://", text.strip()):
        raise ValueError(
            "Kubernetes set it, because a Service has the name homing. "
            "Set enableServiceLinks: false in the pod's spec, or rename the Service"
        )
    if not text.strip().isdecimal() or int(text) > MAX_PORT:
        raise ValueError(f"the value is not valid. Write a port from 0 to {MAX_PORT}")
    return int(text)


def count(text: str) -> int:
    """Read a whole number above zero."""
    if not text.strip().isdecimal() or not 0 < int(text) < 1 << 31:
        raise ValueError("the value is not valid. Write a whole number above zero")
    return int(text)


def host(text: str) -> str:
    """Read a bind address or a host name, without scheme and port."""
    if not text.strip() or re.search(r"[\s/@]", text.strip()):
        raise ValueError(
            "the value is not valid. Write a host name or an address, such as 127.0.0.1, without http:// and port"
        )
    return text.strip()


def url(text: str) -> str:
    """Read an http(s) URL and remove a trailing slash. Only a path may follow the host."""
    wrong = (
        "the value is not valid. Write a URL such as https://homing.example.com, "
        "without a query, a fragment and a user name"
    )
    try:
        parts = urlsplit(text.strip())
        reads = _plain(parts) and (parts.port is None or parts.port > 0)
    except ValueError:
        raise ValueError(wrong) from None
    if not reads:
        raise ValueError(wrong)
    return text.strip().rstrip("/")


def database(text: str) -> str:
    """Read the database URL: a SQLite file or a PostgreSQL server."""
    text = text.strip()
    if text.startswith("postgres"):
        return _server(text)
    path = path_of(text)
    unusable = path is None or not path.name or path.parts[0].startswith(":memory:")
    # A question mark starts options, and a file has none. A name contains it as %3F.
    if unusable or re.search(r"[?#]", text) or re.search(r"[\x00-\x1f\x7f]", str(path)):
        raise ValueError(
            "the value is not valid. Write sqlite:///homing.db for a file here, "
            f"sqlite:////var/lib/homing/homing.db elsewhere, or {SERVER_EXAMPLE} for a server"
        )
    return text


def schema(text: str) -> str:
    """Read the name of a PostgreSQL schema that needs no quotes."""
    if not re.fullmatch(r"(?!pg_)[a-z_][a-z0-9_]{0,62}", text.strip()):
        raise ValueError(
            "the value is not valid. Write a name of lowercase letters, digits and underscores, such as homing, "
            "that does not begin with pg_"
        )
    return text.strip()


def database_name(text: str) -> str:
    """Return the name of a database for logs: the path of a file, or the URL of a server without its password."""
    if (file := path_of(text)) is not None:
        return str(file)
    scheme, _, rest = text.partition("//")
    place, slash, path = rest.partition("/")
    user, at, host = place.rpartition("@")
    return f"{scheme}//{user.partition(':')[0]}{at}{host}{slash}{path}"


def secret(text: str) -> str:
    """Read a credential for a header: printable ASCII without blanks."""
    if not re.fullmatch(r"[!-~]+", text.strip()) or is_quoted(text.strip()):
        raise ValueError("the value is not valid. Write a key of printable ASCII characters, without blanks and quotes")
    return text.strip()


def callback_secrets(text: str) -> tuple[bytes, ...]:
    """Read the secrets of callback URLs. The first creates URLs, all verify them."""
    for entry in entries(text):
        if fault := secret_fault(entry):
            raise ValueError(f"a secret {fault}. `homing key` creates one, after the colon")
    return tuple(entry.encode() for entry in entries(text))


def webhook_secrets(text: str) -> tuple[str, ...]:
    """Read the provider's signing secrets. Each is ``whsec_`` and Base64, as in the provider's console."""
    result = entries(text)
    for entry in result:
        webhook_key(entry)
    return result


def api_keys(text: str) -> tuple[NamedKey, ...]:
    """Read ``name:key,…``. A star after the name gives access to the tasks of all clients."""
    result = []
    for number, entry in enumerate(entries(text), start=1):
        name, colon, key = entry.partition(":")
        if not colon or not _NAME.fullmatch(name.removesuffix(ALL_CLIENTS_MARK)):
            raise ValueError(
                "the value is not valid. Write name:key,… (name*:key sees the tasks of all clients). "
                "`homing key NAME` creates one"
            )
        if fault := key_fault(key):
            # The name is not shown: the operator may have swapped the name and the key.
            raise ValueError(f"the key of entry {number} {fault}. `homing key NAME` creates one")
        result.append(
            NamedKey(name=name.removesuffix(ALL_CLIENTS_MARK), key=key, sees_all=name.endswith(ALL_CLIENTS_MARK))
        )
    return tuple(result)


def client_keys(text: str) -> tuple[ClientKey, ...]:
    """Read ``access:secret,…``: key pairs with which clients sign their tokens."""
    result = []
    for number, entry in enumerate(entries(text), start=1):
        access, colon, key = entry.partition(":")
        if not colon or not _NAME.fullmatch(access) or not re.fullmatch(r"[!-~]+", key):
            raise ValueError("the value is not valid. Write access:secret,…. `homing key` creates a secret")
        if fault := secret_fault(key):
            raise ValueError(f"the secret of entry {number} {fault}. `homing key` creates one, after the colon")
        result.append(ClientKey(access=access, secret=key))
    return tuple(result)


def trust(text: str) -> Trust:
    """Read the lowest trust level that may end a task without a poll. ``unverified`` is not allowed."""
    try:
        result = Trust[text.strip().upper()]
    except KeyError:
        result = Trust.UNVERIFIED
    if result is Trust.UNVERIFIED:
        raise ValueError("the value is not valid. Write token, signed or provider")
    return result


def sink_secrets(text: str) -> Mapping[str, tuple[str, ...]]:
    """Read ``name:whsec_…,…``: the secrets that sign each sink's webhooks, several during a rotation."""
    result: dict[str, tuple[str, ...]] = {}
    for entry in entries(text):
        name, colon, key = entry.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise ValueError(
                "the value is not valid. Write name:whsec_…,… with the names of sinks. "
                "`homing sinks secret NAME` shows the secret in use"
            )
        try:
            webhook_key(key)
        except ValueError:
            raise ValueError(
                "a secret is not valid. After the name and a colon, write whsec_ and the Base64 of 24 bytes or more"
            ) from None
        result[name] = (*result.get(name, ()), key)
    return result


def allowed_targets(text: str) -> Allowed:
    """Read the non-public targets that webhooks may reach: networks, addresses and host names."""
    return read_allowed(entries(text))


def source(text: str) -> str:
    """Read the CloudEvents source of events: a URI reference without blanks."""
    if not re.fullmatch(r"[!-~]{1,200}", text.strip()):
        raise ValueError("the value is not valid. Write a URL or a URN without blanks, such as urn:homing:studio")
    return text.strip()


def level(text: str) -> str:
    """Read the lowest log level."""
    if text.strip().lower() not in LOG_LEVELS:
        raise ValueError(f"the value is not valid. Write one of {', '.join(LOG_LEVELS)}")
    return text.strip().lower()


def _server(text: str) -> str:
    """Read the URL of a PostgreSQL server. Unencoded characters that may belong to the password are refused."""
    wrong = (
        f"the value is not valid. Write {SERVER_EXAMPLE}. "
        "In the password, write @ : / ? # % and blanks as %40 %3A %2F %3F %23 %25 %20"
    )
    try:
        parts = urlsplit(text)
        reads = parts.scheme in SERVERS and (parts.port is None or parts.port > 0)
        options = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(wrong) from None
    if not reads or parts.fragment or parts.netloc.count("@") > 1 or re.search(r"[\s\x00-\x1f]", text):
        raise ValueError(wrong)
    if not re.fullmatch(r"/[^/]+", parts.path):
        raise ValueError(f"the URL has no database. Write {SERVER_EXAMPLE}")
    if not options.keys() <= SERVER_OPTIONS:
        raise ValueError(f"an option after the ? is unknown. Choose from {', '.join(sorted(SERVER_OPTIONS))}")
    return text


def _plain(parts: SplitResult) -> bool:
    return (
        parts.scheme in {"http", "https"}
        and bool(parts.hostname)
        and not (parts.query or parts.fragment or parts.username or parts.password)
        and re.search(r"[\s?#\\\x00-\x1f]", parts.geturl()) is None
    )
