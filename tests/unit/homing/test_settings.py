"""Settings: valid and invalid values. No error and no repr shows a secret."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tracker.errors import SettingsError
from tracker.model.task import Trust
from tracker.settings import PREFIX, Settings, check_settings, load_settings

SECRET = "made-up-secret-that-must-never-be-shown"
WEBHOOK = "whsec_YW5vdGhlci1tYWRlLXVwLXdlYmhvb2stc2VjcmV0LTMy"


def read(**environ: str) -> Settings:
    return load_settings({PREFIX + name.upper(): value for name, value in environ.items()}, None)


def refusal(**environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        read(**environ)
    return caught.value.detail


def test_defaults_suit_a_laptop() -> None:
    settings = read()
    assert (settings.host, settings.port, settings.database_url) == ("127.0.0.1", 8000, "sqlite:///homing.db")
    assert settings.public_url is None
    assert settings.body_limit == 32 * 1024 * 1024
    assert settings.deadline == timedelta(hours=24)
    assert settings.kling_base_url == "https://api-singapore.klingai.com"
    assert not settings.guarded


def test_lists_are_comma_separated_and_ignore_blanks() -> None:
    settings = read(allowed_hosts=" a.example , b.example,, ")
    assert settings.allowed_hosts == ("a.example", "b.example")


def test_star_after_name_gives_key_all_clients() -> None:
    first, second = read(api_keys="studio:a-key-of-the-studio, ops*:a.key~of/the+operator==").api_keys
    assert (first.name, first.key, first.sees_all) == ("studio", "a-key-of-the-studio", False)
    assert (second.name, second.key, second.sees_all) == ("ops", "a.key~of/the+operator==", True)


def test_two_keys_of_one_name_are_a_rotation() -> None:
    assert [key.name for key in read(api_keys="studio:the-key-until-now,studio:the-key-from-now-on").api_keys] == [
        "studio",
        "studio",
    ]


def test_client_keys_are_pairs() -> None:
    (pair,) = read(client_keys=f"access-1:{SECRET}").client_keys
    assert (pair.access, pair.secret) == ("access-1", SECRET)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("90s", timedelta(seconds=90)),
        ("1h30m", timedelta(minutes=90)),
        ("2 d", None),
        ("1.5h", timedelta(minutes=90)),
        ("250ms", timedelta(milliseconds=250)),
        ("0s", None),
        ("-1h", None),
        ("24", None),
        ("9999999d", None),
    ],
)
def test_duration_has_unit_and_is_above_zero(written: str, meant: timedelta | None) -> None:
    if meant is None:
        expected = "HOMING_DEADLINE: the value is not valid. Write a duration such as 90s, 30m, 24h or 1h30m"
        assert refusal(deadline=written) == expected
    else:
        assert read(deadline=written).deadline == meant


def test_retention_is_at_least_an_hour_or_unlimited() -> None:
    assert read(retention="1h").retention == timedelta(hours=1)
    assert read(retention="90d").retention == timedelta(days=90)
    assert read(retention="").retention is None


def test_deadlines_are_per_kind() -> None:
    assert read(deadlines="images/omni-image=2h, videos/omni-video=1d").deadlines == {
        "images/omni-image": timedelta(hours=2),
        "videos/omni-video": timedelta(days=1),
    }


@pytest.mark.parametrize(("written", "meant"), [("1048576", 1 << 20), ("32MiB", 32 << 20), ("1 GiB", 1 << 30)])
def test_size_is_bytes_or_has_unit(written: str, meant: int) -> None:
    assert read(body_limit=written).body_limit == meant


def test_public_url_loses_slash_and_may_have_path() -> None:
    assert read(public_url="https://homing.example.com/hooks/").public_url == "https://homing.example.com/hooks"


@pytest.mark.parametrize(
    "url",
    [
        "homing.example.com",
        "ftp://homing.example.com",
        "https://",
        "https://homing.example.com/?a=1",
        "https://homing.example.com/#top",
        "https://user:pass@homing.example.com",
        "https://homing.example.com:99999",
        "https://homing example.com",
        "https://[::1",
    ],
)
def test_unusable_public_url_is_refused(url: str) -> None:
    assert refusal(public_url=url).startswith("HOMING_PUBLIC_URL: the value is not valid. Write a URL such as https://")


def test_min_final_trust_depends_on_signatures() -> None:
    assert set(read().thresholds.values()) == {Trust.TOKEN}
    assert set(read(min_final_trust="provider").thresholds.values()) == {Trust.PROVIDER}
    assert set(read(min_final_trust="signed").thresholds.values()) == {Trust.SIGNED}


def test_secrets_of_one_provider_leave_trust_of_another() -> None:
    kling, replicate = read(kling_webhook_secrets=WEBHOOK), read(replicate_webhook_secrets=WEBHOOK)

    assert kling.thresholds == {"kling": Trust.SIGNED, "replicate": Trust.TOKEN}
    assert replicate.thresholds == {"kling": Trust.TOKEN, "replicate": Trust.SIGNED}


def test_empty_value_is_unset() -> None:
    assert read(public_url="", kling_api_key=" ", port="").port == 8000


def test_environment_wins_over_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text('HOMING_PORT=9001\nHOMING_HOST="127.0.0.2"  # comment\nOTHER=1\n')
    settings = load_settings({"HOMING_PORT": "9002"}, file)
    assert (settings.port, settings.host) == (9002, "127.0.0.2")


def test_settings_file_with_byte_order_mark_is_read_whole(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"\xef\xbb\xbfHOMING_PORT=9000\n")

    assert load_settings({}, file).port == 9000


def test_settings_file_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"HOMING_PORT=\xff\xfe")
    with pytest.raises(SettingsError, match="Make it a readable UTF-8 text file"):
        load_settings({}, file)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"kling_api_key": SECRET, "kling_access_key": "a", "kling_secret_key": "b"}, "Keep one"),
        ({"kling_api_key": SECRET, "kling_secret_key": "b"}, "Keep one"),
        ({"kling_access_key": SECRET}, "Set HOMING_KLING_SECRET_KEY too"),
        ({"kling_secret_key": SECRET}, "Set HOMING_KLING_ACCESS_KEY too"),
        ({"api_keys": f"a:{SECRET},b:{SECRET}"}, "Give each client its own"),
        ({"client_keys": f"a:{SECRET},a:{SECRET}2"}, "Give each client its own"),
        ({"database_url": f"postgresql+psycopg://u:{SECRET}@db/homing"}, "Write postgresql://user:password@host"),
        ({"database_url": f"postgresql://u:{SECRET}@db"}, "the URL has no database"),
        ({"database_url": f"postgresql://u:{SECRET}@db/homing/more"}, "the URL has no database"),
        ({"database_url": f"postgresql://u:{SECRET}@@db/homing"}, "In the password, write @"),
        ({"database_url": f"postgresql://u:{SECRET}/x@db/homing"}, "In the password, write @"),
        ({"database_url": f"postgresql://u:{SECRET}#x@db/homing"}, "In the password, write @"),
        ({"database_url": f"postgresql://u:{SECRET} x@db/homing"}, "In the password, write @"),
        ({"database_url": f"postgresql://u@db:{SECRET}/homing"}, "In the password, write @"),
        ({"database_url": f"postgresql://u@db/homing?password={SECRET}"}, "an option after the ? is unknown"),
        ({"database_url": f"postgresql://u@db/homing?options=-c{SECRET}"}, "an option after the ? is unknown"),
        ({"database_url": f"mysql://u:{SECRET}@db/homing"}, "Write sqlite:///homing.db"),
        ({"database_url": "sqlite:///:memory:"}, "Write sqlite:///homing.db"),
        ({"database_url": "sqlite://"}, "Write sqlite:///homing.db"),
        ({"api_keys": SECRET}, "Write name:key"),
        ({"api_keys": f":{SECRET}"}, "Write name:key"),
        ({"api_keys": "a:hunter2-short"}, "the key of entry 1 is shorter than 16 characters"),
        ({"api_keys": f"a:'{SECRET}'"}, "Look for quotes"),
        ({"api_keys": f"a:{SECRET};b:{SECRET}"}, "Look for quotes"),
        ({"api_keys": f"a*:{SECRET} b:{SECRET}"}, "Look for quotes"),
        ({"api_keys": f'"a:{SECRET}"'}, "HOMING_API_KEYS is in quotes"),
        ({"callback_secrets": f"'{SECRET}','{SECRET}'"}, "HOMING_CALLBACK_SECRETS is in quotes"),
        ({"callback_secrets": f"{SECRET},'{SECRET}'"}, "is in quotes. Remove them"),
        ({"client_keys": f"access:'{SECRET}'"}, "is in quotes. Remove them"),
        ({"kling_api_key": f"{SECRET}'"}, "blanks and quotes"),
        ({"client_keys": "access:hunter2-is-short"}, "shorter than 32 bytes"),
        ({"callback_secrets": "hunter2-is-short"}, "shorter than 32 bytes"),
        ({"port": "tcp://10.96.0.7:8000"}, "HOMING_PORT: Kubernetes set it"),
        ({"kling_webhook_secrets": f"whsec_{SECRET}"}, "Copy the whole secret"),
        ({"kling_webhook_secrets": WEBHOOK.removeprefix("whsec_")}, "Copy the whole secret"),
        ({"kling_webhook_secrets": f"{WEBHOOK},whsec_c2hvcnQ="}, "Copy the whole secret"),
        ({"kling_api_key": f"{SECRET}\n{SECRET}"}, "printable ASCII"),
        ({"min_final_trust": "unverified"}, "Write token, signed or provider"),
        ({"port": "99999"}, "Write a port from 0 to 65535"),
        ({"polls_per_minute": "0"}, "Write a whole number above zero"),
        ({"body_limit": "lots"}, "Write a size"),
        ({"deadlines": f"images/{SECRET}=1h"}, "Choose from audio/"),
        ({"retention": "59m59s"}, "HOMING_RETENTION: the value is too short. Write an hour or longer"),
        ({"retention": "1ms"}, "Leave it out to keep tasks forever"),
        ({"retention": "90"}, "Write a duration"),
        ({"log_level": "loud"}, "Write one of debug"),
        ({"host": "http://here"}, "Write a host name or an address"),
    ],
)
def test_invalid_setting_is_one_line_without_secret(environ: dict[str, str], says: str) -> None:
    line = refusal(**environ)
    assert says in line
    assert line.startswith("HOMING_")
    assert "\n" not in line
    assert SECRET not in line
    assert "hunter2" not in line


def test_repr_hides_secrets() -> None:
    pair = {"kling_access_key": SECRET + "1", "kling_secret_key": SECRET + "2"}
    settings = read(
        api_keys=f"a:{SECRET}",
        client_keys=f"b:{SECRET}",
        callback_secrets=SECRET,
        kling_webhook_secrets=WEBHOOK,
        database_url=f"postgresql://bob:{SECRET}@db/homing",
        **pair,
    )
    for shown in (repr(settings), str(settings), repr(settings.api_keys), repr(settings.client_keys)):
        assert SECRET not in shown
        assert WEBHOOK not in shown


def test_program_passes_values_unchanged() -> None:
    settings = Settings(port=0, deadline=timedelta(hours=1), callback_secrets=(b"x" * 32,), min_final_trust=Trust.TOKEN)
    assert settings.deadline == timedelta(hours=1)
    assert settings.thresholds["kling"] is Trust.TOKEN


def test_database_name_hides_its_password() -> None:
    assert read(database_url="sqlite:////var/lib/homing.db").database_file == Path("/var/lib/homing.db")
    for scheme in ("postgresql", "postgres"):
        settings = read(database_url=f"{scheme}://bob:{SECRET}@db:5432/homing?sslmode=require")
        assert settings.database_file is None
        assert settings.database_name == f"{scheme}://bob@db:5432/homing?sslmode=require"
    assert read(database_url="postgresql:///homing?host=/run/pg").database_name == "postgresql:///homing?host=/run/pg"


def test_wrong_type_from_program_shows_no_value() -> None:
    odd: Any = {"kling_api_key": SECRET.encode() * 2, "port": [SECRET]}
    with pytest.raises(ValueError, match="validation error") as caught:
        Settings(**odd)
    assert SECRET not in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(read(), "port", 1)  # noqa: B010 - the type checker knows that it cannot be


def test_misspelled_variable_is_named_with_nearest() -> None:
    checked = check_settings(
        {
            "HOMING_API_KEY": SECRET,
            "HOMING_QQQQ": "1",
            "HOMING_TRUST_FINAL": "provider",
            "HOMING_PORT": "1",
            "PATH": "/bin",
        },
        None,
    )
    assert checked.unknown == (
        "HOMING_API_KEY is not a setting and is ignored. Did you mean HOMING_API_KEYS?",
        "HOMING_QQQQ is not a setting and is ignored",
        "HOMING_TRUST_FINAL is not a setting and is ignored. Did you mean HOMING_MIN_FINAL_TRUST?",
    )


def test_kubernetes_service_links_are_named_once() -> None:
    links = {
        "HOMING_SERVICE_HOST": "10.96.0.7",
        "HOMING_SERVICE_PORT": "8000",
        "HOMING_SERVICE_PORT_HTTP": "8000",
        "HOMING_PORT_8000_TCP": "tcp://10.96.0.7:8000",
        "HOMING_PORT_8000_TCP_ADDR": "10.96.0.7",
    }
    (warning,) = check_settings(links, None).unknown
    assert "Kubernetes" in warning


def test_reference_lists_exactly_the_settings() -> None:
    page = (Path(__file__).parents[3] / "docs" / "reference" / "settings.md").read_text()
    named = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `HOMING_")}
    assert named == {PREFIX + name.upper() for name in Settings.model_fields}


def test_check_reports_each_invalid_setting_and_reads_others() -> None:
    environ = {
        "HOMING_PORT": "http",
        "HOMING_DEADLINE": "24",
        "HOMING_KLING_API_KEY": f'"{SECRET}"',
        "HOMING_RETENTION": "90d",
    }

    checked = check_settings(environ, None)

    assert len(checked.errors) == 3
    assert checked.left_out == {"port", "deadline", "kling_api_key"}
    assert (checked.settings.port, checked.settings.retention) == (8000, timedelta(days=90))
    assert SECRET not in str(checked)


def test_check_reports_no_consequence_of_an_error() -> None:
    environ = {"HOMING_SINKS": "gopher://a.example", "HOMING_SINK_SECRETS": f"shop:{WEBHOOK}"}

    checked = check_settings(environ, None)

    (error,) = checked.errors
    assert error.startswith("HOMING_SINKS: sink 1: ")
    assert checked.left_out == {"sinks", "sink_secrets"}


def test_check_without_readable_file_uses_environment(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"HOMING_PORT=\xff\xfe")

    checked = check_settings({"HOMING_HOST": "127.0.0.2"}, file)

    assert [error.rpartition(". ")[2] for error in checked.errors] == ["Make it a readable UTF-8 text file"]
    assert checked.settings.host == "127.0.0.2"
    assert checked.left_out == Settings.model_fields.keys() - {"host"}
