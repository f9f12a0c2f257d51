from typing import Any

import pytest

from homing.sandbox import FAULTS, SandboxSettings, SandboxSettingsError
from homing.sandbox.faults import Faults, UnknownFaultError

SECRETS = ("whsec_bWFkZSB1cA==",)


def strikes(faults: Faults, name: str = "slow") -> list[bool]:
    return [faults.strike(name, index) is not None for index in range(200)]


def test_same_seed_fails_in_same_places() -> None:
    assert strikes(Faults(7, {"slow": 0.3})) == strikes(Faults(7, {"slow": 0.3}))
    assert strikes(Faults(7, {"slow": 0.3})) != strikes(Faults(8, {"slow": 0.3}))


def test_fault_rate_is_about_its_share() -> None:
    assert 30 < sum(strikes(Faults(7, {"slow": 0.3}))) < 90


def test_one_fault_changes_no_other() -> None:
    alone, together = Faults(7, {"slow": 0.3}), Faults(7, {"slow": 0.3, "dripping": 0.9})
    assert strikes(alone) == strikes(together)


def test_extreme_rates_are_never_and_always() -> None:
    faults = Faults(7, {"slow": 1})
    assert all(strikes(faults))
    assert not any(strikes(faults, "dripping"))


def test_rates_change_at_run_time() -> None:
    faults = Faults(7, {})
    faults.change({"slow": 1})
    assert all(strikes(faults))
    assert faults.rates == {"slow": 1.0}


def test_unknown_fault_is_refused_with_known_ones() -> None:
    with pytest.raises(UnknownFaultError, match="unknown fault 'late'") as refused:
        Faults(7, {"late": 0.5})
    assert all(name in str(refused.value) for name in FAULTS)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), "0.5", True, None])
def test_invalid_rate_is_refused_and_changes_nothing(rate: object) -> None:
    faults = Faults(7, {"dripping": 0.5})
    with pytest.raises(UnknownFaultError, match="slow"):
        faults.change({"dripping": 0.9, "slow": rate})
    assert faults.rates == {"dripping": 0.5}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"api_keys": ()}, "API key"),
        ({"callback_shape": "xml"}, "callback_shape"),
        ({"webhook_secrets": ("secret",)}, "whsec_"),
        ({"webhook_secrets": ("whsec_",)}, "whsec_"),
        ({"webhook_secrets": ("whsec_ä",)}, "whsec_"),
        ({"access_keys": {"a": "short"}}, "32 bytes"),
        ({"faults": {"nope": 1}}, "unknown fault"),
        ({"run_time": -1}, "run_time"),
        ({"run_time": float("nan")}, "run_time"),
        ({"run_time_sigma": 100}, "run_time_sigma"),
        ({"failure_rate": 2}, "failure_rate"),
        ({"slots": 0}, "slots"),
        ({"callback_attempts": 0}, "callback_attempts"),
    ],
)
def test_impossible_settings_are_refused_by_name(wrong: dict[str, Any], expected: str) -> None:
    with pytest.raises(SandboxSettingsError, match=expected):
        SandboxSettings(**{"webhook_secrets": SECRETS, **wrong})
