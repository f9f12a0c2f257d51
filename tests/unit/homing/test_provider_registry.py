"""Each provider of the registry has its settings, its account and its verifier."""

from receiver.providers import VERIFIERS
from tracker.app import accounts_of
from tracker.providers.registry import NAMES
from tracker.settings import BASE_URLS, CREDENTIALS, WEBHOOK_SECRETS, Settings


def test_each_provider_has_settings_account_and_verifier() -> None:
    assert {*BASE_URLS, *WEBHOOK_SECRETS, *CREDENTIALS} <= Settings.model_fields.keys()
    assert set(accounts_of(Settings())) == set(NAMES) == set(VERIFIERS)
