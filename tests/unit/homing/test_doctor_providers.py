"""`homing doctor` checks each provider in use, and only these."""

from typing import Any

import pytest

from homing.commands.doctor import callback_verification, in_use, notes
from tracker.settings import Settings

SECRET = ("whsec_YW5vdGhlci1tYWRlLXVwLXdlYmhvb2stc2VjcmV0LTMy",)
KEY = "made-up-key-of-the-tests"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, ["kling"]),
        ({"kling_api_key": KEY}, ["kling"]),
        ({"replicate_api_key": KEY}, ["replicate"]),
        ({"replicate_webhook_secrets": SECRET}, ["replicate"]),
        ({"kling_api_key": KEY, "replicate_webhook_secrets": SECRET}, ["kling", "replicate"]),
    ],
)
def test_provider_with_key_or_secret_is_in_use(given: dict[str, Any], used: list[str]) -> None:
    assert in_use(Settings(**given)) == used


async def test_each_provider_in_use_is_judged_by_its_own_secrets() -> None:
    settings = Settings(kling_api_key=KEY, replicate_webhook_secrets=SECRET, public_url="https://homing.example")

    kling, replicate = await callback_verification(settings)

    assert (kling.name, replicate.name) == ("callback verification", "callback verification of replicate")
    assert "Set HOMING_KLING_WEBHOOK_SECRETS" in kling.detail
    assert replicate.detail == "only a signed callback ends a task"


def test_plain_url_of_a_provider_with_a_key_is_named() -> None:
    settings = Settings(
        replicate_api_key=KEY, replicate_base_url="http://proxy.example", kling_base_url="http://k.example"
    )

    (note,) = notes(settings, ())

    assert note.name == "provider URL of replicate"
    assert "HOMING_REPLICATE_BASE_URL is http" in note.detail
