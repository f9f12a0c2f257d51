"""The settings in force as `homing doctor` shows them: secrets are masked."""

from collections.abc import Sequence
from datetime import timedelta

from tracker.model.targets import Allowed
from tracker.model.untrusted import JsonObject, JsonValue
from tracker.settings import PREFIX, WEBHOOK_SECRETS, CheckedSettings, Settings


def in_force(checked: CheckedSettings) -> JsonObject:
    """Return each setting without secrets: a secret as the fact that it is set, a key as its name."""
    settings, left_out = checked.settings, set(checked.left_out)
    if not left_out.isdisjoint(WEBHOOK_SECRETS) and settings.min_final_trust is None:
        # The default depends on them.
        left_out.add("min_final_trust")
    shown: JsonObject = {}
    for name, field in Settings.model_fields.items():
        value = _trust(settings) if name == "min_final_trust" else getattr(settings, name)
        shown[PREFIX + name.upper()] = _plain(value) if field.repr else _masked(settings, name)
    for name in left_out:
        shown[PREFIX + name.upper()] = "invalid, not used" if name in checked.invalid else "not checked"
    return shown


def _trust(settings: Settings) -> JsonValue:
    """Return the one trust level, or that of each provider if their defaults differ."""
    levels = {name: trust.name.lower() for name, trust in settings.thresholds.items()}
    different = len(set(levels.values())) > 1
    return ", ".join(f"{name}={level}" for name, level in levels.items()) if different else next(iter(levels.values()))


def _masked(settings: Settings, name: str) -> str:
    if name == "database_url":
        return settings.database_name
    if name == "api_keys":
        return ", ".join(key.name + "*" * key.sees_all for key in settings.api_keys) or "not set"
    value: str | Sequence[object] | None = getattr(settings, name)
    if not value:
        return "not set"
    return "set" if isinstance(value, str) else f"{len(value)} set"


def _plain(value: object) -> JsonValue:
    if value is None or isinstance(value, (int, str)):
        return value if value is not None else "not set"
    if isinstance(value, timedelta):
        return _duration(value)
    if isinstance(value, Allowed):
        return str(value) or "not set"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_plain(item)}" for name, item in value.items()) or "not set"
    return ", ".join(map(str, value)) if isinstance(value, tuple) and value else "not set"


def _duration(value: timedelta) -> str:
    """Format a duration in its largest whole unit, as in the settings."""
    seconds = value.total_seconds()
    for unit, length in (("h", 3600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds / length:g}{unit}"
    return f"{seconds:g}s"
