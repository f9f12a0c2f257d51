"""The settings, read once from the environment and a ``.env`` file.

An invalid setting, or two contradictory ones, raise one SettingsError with one line that says what to do. That line
never contains a value. Pydantic's own texts quote values, so the line is built only from the name and fixed sentences.
`homing doctor` goes on with the valid settings and shows every error.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Self

from dotenv import dotenv_values
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tracker import settings_syntax as syntax
from tracker.delivery.sinks.urls import parse_sinks, signing_names, unreachable
from tracker.errors import SettingsError
from tracker.model.database_url import path_of
from tracker.model.keys import ClientKey, NamedKey
from tracker.model.published_secrets import REPLACE, is_published, url_secrets
from tracker.model.sinks import SinkSpec
from tracker.model.targets import PUBLIC_ONLY, Allowed
from tracker.model.task import Trust
from tracker.providers.kling_helpers import GROUPS
from tracker.providers.registry import NAMES, PROVIDERS

PREFIX: Final = "HOMING_"
# The old names of settings. Homing no longer reads them.
RENAMED: Final = {
    "FIRST_CHECK": "FIRST_POLL_DELAY",
    "POLL_BUDGET": "POLLS_PER_MINUTE",
    "TRUST_FINAL": "MIN_FINAL_TRUST",
}
OFFICIAL_HOST: Final = "https://api-singapore.klingai.com"
REPLICATE_HOST: Final = "https://api.replicate.com"
MIB: Final = 1 << 20
# The fields of Kling's credential, and of all credentials.
KLING_CREDENTIAL: Final = ("kling_api_key", "kling_access_key", "kling_secret_key")
CREDENTIALS: Final = (*KLING_CREDENTIAL, "replicate_api_key")
BASE_URLS: Final = tuple(f"{name}_base_url" for name in NAMES)
WEBHOOK_SECRETS: Final = tuple(f"{name}_webhook_secrets" for name in NAMES)
# The variables that Kubernetes adds to a pod for a Service called homing, in addition to HOMING_PORT.
SERVICE_LINK: Final = re.compile(r"SERVICE_(?:HOST|PORT(?:_\w+)?)|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?")


class InvalidSetting(ValueError):
    """Settings that contradict each other or have a published secret.

    ``fields`` are the ones to leave out. ``given`` are other fields that the sentence depends on.
    """

    def __init__(self, sentence: str, *fields: str, given: Iterable[str] = ()) -> None:
        super().__init__(sentence)
        self.fields = frozenset(fields)
        self.given = frozenset(given)


def _written(read: Callable[[str], object]) -> BeforeValidator:
    """Parse text from the environment. A value that a program passes in stays unchanged."""
    return BeforeValidator(lambda value: read(value) if isinstance(value, str) else value)


Url = Annotated[str, _written(syntax.url)]
Secret = Annotated[str, _written(syntax.secret)]
Duration = Annotated[timedelta, _written(syntax.duration)]
Count = Annotated[int, _written(syntax.count)]


class Settings(BaseModel):
    """All settings. The environment variable of a field is ``HOMING_`` and its name in capitals.

    Secrets are left out of ``repr``. docs/reference/settings.md explains each; `homing doctor` shows those in force.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True)

    database_url: Annotated[str, _written(syntax.database)] = Field(default="sqlite:///homing.db", repr=False)
    database_schema: Annotated[str, _written(syntax.schema)] | None = None
    host: Annotated[str, _written(syntax.host)] = "127.0.0.1"
    port: Annotated[int, _written(syntax.port)] = 8000
    public_url: Url | None = None
    allowed_hosts: Annotated[tuple[str, ...], _written(syntax.entries)] = ()
    body_limit: Annotated[int, _written(syntax.size)] = 32 * MIB
    streams_per_client: Count = 200
    gateway_helpers: Annotated[tuple[str, ...], _written(syntax.entries)] = ("all",)
    log_level: Annotated[str, _written(syntax.level)] = "info"
    api_url: Url | None = None

    callback_secrets: Annotated[tuple[bytes, ...], _written(syntax.callback_secrets)] = Field(default=(), repr=False)
    api_keys: Annotated[tuple[NamedKey, ...], _written(syntax.api_keys)] = Field(default=(), repr=False)
    client_keys: Annotated[tuple[ClientKey, ...], _written(syntax.client_keys)] = Field(default=(), repr=False)
    min_final_trust: Annotated[Trust | None, _written(syntax.trust)] = None

    kling_base_url: Url = OFFICIAL_HOST
    kling_api_key: Secret | None = Field(default=None, repr=False)
    kling_access_key: Secret | None = Field(default=None, repr=False)
    kling_secret_key: Secret | None = Field(default=None, repr=False)
    kling_webhook_secrets: Annotated[tuple[str, ...], _written(syntax.webhook_secrets)] = Field(default=(), repr=False)

    replicate_base_url: Url = REPLICATE_HOST
    replicate_api_key: Secret | None = Field(default=None, repr=False)
    replicate_webhook_secrets: Annotated[tuple[str, ...], _written(syntax.webhook_secrets)] = Field(
        default=(), repr=False
    )

    polls_per_minute: Count = 120
    client_polls_per_minute: Count = 30
    first_poll_delay: Duration | None = None
    deadline: Duration = timedelta(hours=24)
    deadlines: Annotated[Mapping[str, timedelta], _written(syntax.durations)] = Field(default_factory=dict)
    retention: Annotated[timedelta, _written(syntax.retention)] | None = None

    sinks: Annotated[tuple[SinkSpec, ...], _written(parse_sinks)] = ()
    sink_secrets: Annotated[Mapping[str, tuple[str, ...]], _written(syntax.sink_secrets)] = Field(
        default_factory=dict, repr=False
    )
    allowed_targets: Annotated[Allowed, _written(syntax.allowed_targets)] = PUBLIC_ONLY
    event_source: Annotated[str, _written(syntax.source)] | None = None

    @property
    def webhook_secrets(self) -> Mapping[str, tuple[str, ...]]:
        """The secrets that sign the callbacks of each provider."""
        return {name: getattr(self, field) for name, field in zip(NAMES, WEBHOOK_SECRETS, strict=True)}

    @property
    def thresholds(self) -> Mapping[str, Trust]:
        """The lowest trust level that may make a status final without a poll, for each provider.

        The secrets of one provider do not change the default of another.
        """
        defaults = {name: Trust.SIGNED if given else Trust.TOKEN for name, given in self.webhook_secrets.items()}
        chosen = self.min_final_trust
        return {name: default if chosen is None else chosen for name, default in defaults.items()}

    @property
    def helper_groups(self) -> frozenset[str]:
        """The groups of helper calls that the gateway offers."""
        named = self.gateway_helpers
        return frozenset(GROUPS if named == ("all",) else () if named == ("none",) else named)

    @property
    def source(self) -> str:
        """The CloudEvents source of events."""
        return self.event_source or self.public_url or "urn:homing"

    @property
    def database_file(self) -> Path | None:
        """The SQLite file that ``database_url`` names, or None for a server."""
        return path_of(self.database_url)

    @property
    def database_name(self) -> str:
        """The name of the database for people: its file, or its URL without the password, and the schema."""
        schema = f" (schema {self.database_schema})" if self.database_schema else ""
        return syntax.database_name(self.database_url) + schema

    @property
    def guarded(self) -> bool:
        """Return whether API keys are configured."""
        return bool(self.api_keys or self.client_keys)

    @property
    def has_credential(self) -> bool:
        """Return whether a credential of any provider is configured."""
        return any(getattr(self, name) is not None for name in CREDENTIALS)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.database_schema and self.database_file is not None:
            raise InvalidSetting(
                "HOMING_DATABASE_SCHEMA is for PostgreSQL, but HOMING_DATABASE_URL is a SQLite file. Remove one",
                "database_schema",
                "database_url",
            )
        if self.kling_api_key and (self.kling_access_key or self.kling_secret_key):
            raise InvalidSetting(
                "HOMING_KLING_API_KEY and HOMING_KLING_ACCESS_KEY are both set. Keep one, the provider accepts either",
                *KLING_CREDENTIAL,
            )
        if bool(self.kling_access_key) != bool(self.kling_secret_key):
            there, missing = ("ACCESS", "SECRET") if self.kling_access_key else ("SECRET", "ACCESS")
            raise InvalidSetting(
                f"HOMING_KLING_{there}_KEY is set alone. Set HOMING_KLING_{missing}_KEY too", *KLING_CREDENTIAL
            )
        known = {kind for provider in PROVIDERS for kind in provider.kinds}
        if not self.deadlines.keys() <= known:
            raise InvalidSetting(
                f"HOMING_DEADLINES: a kind is unknown. Choose from {', '.join(sorted(known))}", "deadlines"
            )
        if not self.helper_groups <= set(GROUPS):
            raise InvalidSetting(
                f"HOMING_GATEWAY_HELPERS: a group is unknown. Write all, none, or some of {', '.join(GROUPS)}",
                "gateway_helpers",
            )
        keys = [key.key for key in self.api_keys]
        if len(set(keys)) < len(keys):
            raise InvalidSetting("HOMING_API_KEYS: two entries share one key. Give each client its own", "api_keys")
        accesses = [pair.access for pair in self.client_keys]
        if len(set(accesses)) < len(accesses):
            raise InvalidSetting(
                "HOMING_CLIENT_KEYS: two pairs share one access key. Give each client its own", "client_keys"
            )
        return self

    @model_validator(mode="after")
    def _keep_secrets(self) -> Self:
        for setting, secrets in self._secrets():
            if any(is_published(secret) for secret in secrets):
                raise InvalidSetting(f"{PREFIX}{setting}: a secret {REPLACE}", setting.lower())
        return self

    def _secrets(self) -> Iterator[tuple[str, Iterable[str]]]:
        """Yield every secret with the setting that it comes from."""
        yield "API_KEYS", (key.key for key in self.api_keys)
        yield "CLIENT_KEYS", (pair.secret for pair in self.client_keys)
        yield "CALLBACK_SECRETS", (secret.decode("utf-8", "replace") for secret in self.callback_secrets)
        yield "KLING_API_KEY", (self.kling_api_key or "",)
        yield "KLING_SECRET_KEY", (self.kling_secret_key or "",)
        yield "REPLICATE_API_KEY", (self.replicate_api_key or "",)
        yield from zip((field.upper() for field in WEBHOOK_SECRETS), self.webhook_secrets.values(), strict=True)
        yield "SINK_SECRETS", (secret for secrets in self.sink_secrets.values() for secret in secrets)
        yield "SINKS", (secret for spec in self.sinks for secret in url_secrets(spec.target))
        yield "DATABASE_URL", url_secrets(self.database_url)

    @model_validator(mode="after")
    def _lead_somewhere(self) -> Self:
        if why := unreachable(self.sinks, self.allowed_targets):
            raise InvalidSetting(f"HOMING_SINKS: {why}", "sinks", given=["allowed_targets"])
        signing = signing_names(self.sinks)
        if not self.sink_secrets.keys() <= signing:
            known = ", ".join(sorted(signing))
            raise InvalidSetting(
                f"HOMING_SINK_SECRETS: a name is not a sink that signs. HOMING_SINKS has these: {known}",
                "sink_secrets",
                given=["sinks"],
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedSettings:
    """The valid settings, and a sentence for each problem.

    ``errors`` are about ``invalid`` or contradictory fields, ``unknown`` about variables that are not settings. The
    fields in ``left_out`` have their default values in ``settings``: they are invalid, or depend on an invalid
    field.
    """

    settings: Settings
    errors: tuple[str, ...]
    unknown: tuple[str, ...]
    invalid: frozenset[str]
    left_out: frozenset[str]


def load_settings(environ: Mapping[str, str] | None = None, env_file: str | Path | None = ".env") -> Settings:
    """Read the settings from ``environ`` (None: the process's own), then from ``env_file``. An empty value is unset.

    Raises: SettingsError, with one line that says what to do and never shows a value.
    """
    checked = check_settings(environ, env_file)
    if checked.errors:
        raise SettingsError(checked.errors[0])
    return checked.settings


def check_settings(environ: Mapping[str, str] | None = None, env_file: str | Path | None = ".env") -> CheckedSettings:
    """Read the settings as ``load_settings`` does, but leave out invalid ones instead of raising."""
    errors: list[str] = []
    invalid: set[str] = set()
    left_out: set[str] = set()
    try:
        variables = _variables(environ, env_file)
    except SettingsError as error:
        variables = _variables(environ, None)
        errors.append(error.detail)
        # The file may set any field that the environment does not set.
        left_out.update(Settings.model_fields.keys() - _fields(variables).keys())
    given = _fields(variables)
    for name, value in given.items():
        if re.fullmatch(r"""(["']).*\1""", value.strip(), re.DOTALL):
            errors.append(f"{PREFIX}{name.upper()} is in quotes. Remove them (docker's --env-file keeps them)")
            invalid.add(name)
    left_out |= invalid
    settings: Settings | None = None
    while settings is None:
        try:
            settings = Settings.model_validate({name: given[name] for name in given if name not in left_out})
        except ValidationError as error:
            for found in error.errors(include_input=False, include_url=False):
                fault = _invalid_setting(found["loc"], found.get("ctx", {}).get("error"))
                # A contradiction with a setting that was left out says nothing about this setting.
                if left_out.isdisjoint(fault.fields | fault.given):
                    errors.append(str(fault))
                    invalid.update(fault.fields)
                left_out.update(fault.fields or given)
    return CheckedSettings(
        settings=settings,
        errors=tuple(errors),
        unknown=tuple(_unknown(variables)),
        invalid=frozenset(invalid),
        left_out=frozenset(left_out),
    )


def _unknown(variables: Iterable[str]) -> list[str]:
    """Return a sentence for each variable that is not a setting, with the most similar setting."""
    known = [field.upper() for field in Settings.model_fields]
    sentences = []
    names = sorted(name.removeprefix(PREFIX) for name in variables)
    if any(SERVICE_LINK.fullmatch(name) for name in names):
        sentences.append(
            f"{PREFIX}SERVICE_HOST and similar variables are ignored. Kubernetes sets them for a Service called homing"
        )
    for name in names:
        if name not in known and not SERVICE_LINK.fullmatch(name):
            near = [RENAMED[name]] if name in RENAMED else get_close_matches(name, known, n=1)
            hint = f". Did you mean {PREFIX}{near[0]}?" if near else ""
            sentences.append(f"{PREFIX}{name} is not a setting and is ignored{hint}")
    return sentences


def _variables(environ: Mapping[str, str] | None, env_file: str | Path | None) -> dict[str, str]:
    """Return the non-empty variables with Homing's prefix. The environment overrides the file."""
    found: dict[str, str | None] = {}
    if env_file is not None and Path(env_file).is_file():
        try:
            # Interpolation would change a dollar sign in a secret. A byte order mark, which some editors write, is not
            # part of the first name.
            found.update(dotenv_values(env_file, interpolate=False, encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError):
            raise SettingsError(f"{env_file} cannot be read. Make it a readable UTF-8 text file") from None
    found.update(os.environ if environ is None else environ)
    return {name: value for name, value in found.items() if name.startswith(PREFIX) and value and value.strip()}


def _fields(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that are settings, by the names of their fields."""
    named = {name.removeprefix(PREFIX).lower(): value for name, value in variables.items()}
    return {name: value for name, value in named.items() if name in Settings.model_fields}


def _invalid_setting(location: Sequence[int | str], cause: object) -> InvalidSetting:
    """Return an error of pydantic in Homing's words. A message of pydantic might quote a secret."""
    if isinstance(cause, InvalidSetting):
        return cause
    sentence = str(cause) if isinstance(cause, ValueError) else "has a value of the wrong type"
    if not location:
        return InvalidSetting(sentence)
    name = str(location[0])
    return InvalidSetting(f"{PREFIX}{name.upper()}: {sentence}", name)
