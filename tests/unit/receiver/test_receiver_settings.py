"""Receiver settings: invalid values are refused, and secrets are never shown."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any

import pytest

from receiver.providers import VERIFIERS, verifiers
from receiver.settings import ReceiverSettings
from tracker.errors import SettingsError

KEY = b"made-up key for the settings' own tests"
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
OTHER = f"whsec_{base64.b64encode(KEY[::-1]).decode()}"
BROKEN = "whsec_made-up!broken"


@dataclass(frozen=True)
class Configured:
    webhook_secrets: Mapping[str, tuple[str, ...]]
    public_url: str | None = None


def made(**changed: Any) -> ReceiverSettings:
    return ReceiverSettings(**changed)


def test_secrets_are_read_from_process_settings() -> None:
    settings = ReceiverSettings.from_settings(Configured({"kling": (SECRET,), "replicate": (OTHER,)}))
    assert settings.webhook_secrets == {"kling": (SECRET,), "replicate": (OTHER,)}


def test_provider_without_secrets_has_no_verifier() -> None:
    assert verifiers({}) == dict.fromkeys(VERIFIERS)
    assert verifiers(ReceiverSettings.from_settings(Configured({})).webhook_secrets) == dict.fromkeys(VERIFIERS)


def test_provider_with_secrets_has_verifier() -> None:
    assert verifiers({"kling": (SECRET,)})["kling"] is not None


@pytest.mark.parametrize("secrets", [(BROKEN,), (SECRET, BROKEN)])
def test_broken_secret_is_named_by_position_and_not_shown(secrets: tuple[str, ...]) -> None:
    with pytest.raises(
        SettingsError, match=f"kling webhook secret {len(secrets)}: not valid. Copy the whole secret"
    ) as refusal:
        ReceiverSettings(webhook_secrets={"kling": secrets})
    assert "made-up" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_secrets_of_unknown_provider_are_refused() -> None:
    with pytest.raises(SettingsError, match="'klang', but callbacks come from: kling"):
        ReceiverSettings(webhook_secrets={"klang": (SECRET,)})


def test_settings_do_not_show_secrets() -> None:
    shown = repr(ReceiverSettings(webhook_secrets=MappingProxyType({"kling": (SECRET,)})))
    assert SECRET not in shown
    assert KEY.decode() not in shown


@pytest.mark.parametrize(
    "name",
    ["body_limit", "unverified_rate", "shared_rate", "counted_urls", "token_rate", "unsigned_kept", "commits"],
)
def test_zero_bound_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        made(**{name: 0})


@pytest.mark.parametrize("name", ["body_timeout", "commit_timeout"])
def test_zero_timeout_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match=name):
        made(**{name: timedelta(0)})


@pytest.mark.parametrize(
    ("public_url", "prefix"),
    [
        (None, ""),
        ("https://homing.example.com", ""),
        ("https://homing.example.com/hooks", "/hooks"),
        ("https://homing.example.com/a/b%20c", "/a/b c"),
    ],
)
def test_path_of_public_url_is_prefix(public_url: str | None, prefix: str) -> None:
    assert ReceiverSettings.from_settings(Configured({}, public_url)).prefix == prefix
