"""HOMING_SINKS: valid and invalid values. Errors are one line, and no secret in a URL is ever shown."""

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import NOW
from tests.support.fakes import new_secret
from tracker.delivery.sinks import broker
from tracker.delivery.sinks.base import Sink
from tracker.delivery.sinks.urls import SINK_TYPES, SinkContext, create_sinks, parse_sinks
from tracker.errors import SettingsError
from tracker.model.event_filter import EventFilter
from tracker.model.sinks import SinkSpec
from tracker.service.sink_secrets import SinkSecrets
from tracker.settings import load_settings

SECRET = "made-up-secret"
WEBHOOK = "whsec_YW5vdGhlci1tYWRlLXVwLXdlYmhvb2stc2VjcmV0LTMy"


def one(text: str) -> SinkSpec:
    (spec,) = parse_sinks(text)
    return spec


def made(text: str) -> list[tuple[SinkSpec, Sink]]:
    context = SinkContext(source="urn:homing", secrets=SinkSecrets(new_secret, {}), clock=lambda: NOW)
    return create_sinks(parse_sinks(text), context=context)


def refusal(**environ: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings({f"HOMING_{name.upper()}": value for name, value in environ.items()}, None)
    return caught.value.detail


def test_sink_options_follow_hash() -> None:
    spec = one(
        "https://shop.example/hook?shop=7#name=shop&type=succeeded&type=failed&client=studio&tag=a%20b&from=beginning"
    )
    types = frozenset({"homing.task.succeeded", "homing.task.failed"})
    assert spec == SinkSpec(
        name="shop",
        scheme="https",
        target="https://shop.example/hook?shop=7",
        address="https://shop.example/…",
        filter=EventFilter(types=types, clients=frozenset({"studio"}), tags=frozenset({"a b"})),
        beginning=True,
        signed_per="sink",
    )


def test_sinks_are_separated_by_commas_or_blanks() -> None:
    text = " https://a.example , stdout:\tpython:app.hooks:notify#client=studio,,\n https://b.example#from=now "
    assert [(spec.name, spec.scheme, spec.beginning) for spec in parse_sinks(text)] == [
        ("a.example", "https", False),
        ("stdout", "stdout", False),
        ("app.hooks.notify", "python", False),
        ("b.example", "https", False),
    ]
    assert parse_sinks("") == ()


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("https://shop.example", "shop.example"),
        ("https://shop.example:443/x/y", "shop.example"),
        ("https://shop.example:8443/x", "shop.example-8443"),
        ("https://user:pass@shop.example/", "shop.example"),
        ("https://[2606:2800:220::1]/", "2606-2800-220-1"),
        ("HTTPS://Shop.Example/", "shop.example"),
        ("python:app:notify.at_once", "app.notify.at_once"),
        ("stdout:", "stdout"),
    ],
)
def test_sink_without_name_gets_readable_one(written: str, name: str) -> None:
    assert one(written).name == name


@pytest.mark.parametrize(
    ("sinks", "says"),
    [
        (f"kafka.example/{SECRET}", "sink 1: its scheme is unknown. Choose one of https, http, python, stdout"),
        (f"stdout: htps://{SECRET}@a.example", "sink 2: its scheme is unknown. Did you mean https:?"),
        (f"https://u:{SECRET}#x@a.example", "# @ / in a password as %23"),
        (f"https://a.example/a#{SECRET}", "Write them as #name=shop&type=succeeded, and a # within the URL as %23"),
        (f"https://a.example/a#{SECRET}=1", "an option after the # is unknown. Choose from name, from, type"),
        ("https://a.example/?to=a,b", "Within a URL or its options, write a comma as %2C"),
        ("https://a.example#tag=a,b", "Within a URL or its options, write a comma as %2C"),
        ("https://a.example#tipe=succeeded", "is unknown. Did you mean type=?"),
        ("https://a.example#type=succeded", "type= matches no event type. Did you mean succeeded?"),
        ("https://a.example#client=", "client= is empty"),
        ("https://a.example#name=", "its #name= is not valid. Use letters"),
        (f"https://a.example#name={SECRET}/", "its #name= is not valid. Use letters"),
        ("https://a.example#name=a&name=b", "an option is set twice. Set each of from, name at most once"),
        ("https://a.example#from=then", "its from= is not valid. Write now or beginning"),
        ("https://a.example#name=callbacks", "the name `callbacks` is reserved"),
        (
            "https://a.example,https://a.example/2",
            "sink 2: another sink has the name `a.example`. Give each sink its own #name=",
        ),
        ("https://", "it is not a valid URL. Write https://shop.example/hook"),
        (f"https://a.example:{SECRET}/", "it is not a valid URL. Write https://shop.example/hook"),
        (f"https://{SECRET}\\@a.example", "it is not a valid URL. Write https://shop.example/hook"),
        ("https://[::1", "it is not a valid URL. Write https://shop.example/hook"),
        (f"python:{SECRET}", "Write python:module:callable"),
        ("python:app hooks:notify", "Write python:module:callable"),
        ("python:app:os.system('ls')", "Write python:module:callable"),
        (f"stdout:{SECRET}", "Write stdout: alone"),
        (f"http://u:{SECRET}@a.example", "the URL of sink `a.example` must be an https URL"),
        (
            f"https://u:{SECRET}@127.0.0.1",
            "must not point to a private address. To allow its host, add it to HOMING_ALLOWED_TARGETS",
        ),
        ("https://intranet", "must not point to a host name of an internal network"),
    ],
)
def test_invalid_sink_is_refused_in_one_line_without_secret(sinks: str, says: str) -> None:
    line = refusal(sinks=sinks)
    assert line.startswith("HOMING_SINKS: ")
    assert says in line
    assert "\n" not in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"sink_secrets": f"shop:{WEBHOOK}"}, "HOMING_SINK_SECRETS: a name is not a sink that signs"),
        (
            {"sinks": "stdout:", "sink_secrets": f"stdout:{WEBHOOK}"},
            "HOMING_SINK_SECRETS: a name is not a sink that signs",
        ),
        ({"sink_secrets": WEBHOOK}, "HOMING_SINK_SECRETS: the value is not valid. Write name:whsec_"),
        ({"sink_secrets": f"callbacks:{SECRET}"}, "HOMING_SINK_SECRETS: a secret is not valid. After"),
        (
            {"allowed_targets": "http://hooks"},
            "HOMING_ALLOWED_TARGETS: the value is not valid. Write networks",
        ),
        ({"event_source": "a b"}, "HOMING_EVENT_SOURCE: the value is not valid. Write a URL or a URN"),
    ],
)
def test_invalid_sink_settings_are_refused_in_one_line(environ: dict[str, str], says: str) -> None:
    line = refusal(**environ)
    assert line.startswith(says)
    assert WEBHOOK not in line
    assert SECRET not in line


def test_sink_settings_are_read() -> None:
    settings = load_settings(
        {
            "HOMING_SINKS": "http://hooks.internal/#name=shop",
            "HOMING_SINK_SECRETS": f"shop:{WEBHOOK},callbacks:{WEBHOOK},shop:{WEBHOOK[:-4]}",
            "HOMING_ALLOWED_TARGETS": "10.0.0.0/8, hooks.internal",
        },
        None,
    )
    assert settings.sink_secrets == {"shop": (WEBHOOK, WEBHOOK[:-4]), "callbacks": (WEBHOOK,)}
    assert settings.allowed_targets.names("hooks.internal")
    assert WEBHOOK not in repr(settings)


def test_event_source_is_public_url_unless_set() -> None:
    assert load_settings({}, None).source == "urn:homing"
    public = {"HOMING_PUBLIC_URL": "https://homing.example.com/"}
    assert load_settings(public, None).source == "https://homing.example.com"
    assert load_settings(public | {"HOMING_EVENT_SOURCE": "urn:homing:studio"}, None).source == "urn:homing:studio"


def test_secret_in_sink_url_is_never_shown() -> None:
    text = f"https://user:{SECRET}@shop.example/{SECRET}?key={SECRET}#name=shop"
    for shown in (repr(one(text)), str(one(text)), repr(made(text)[1][0]), repr(load_settings({"HOMING_SINKS": text}))):
        assert SECRET not in shown
        assert "shop.example" in shown


def test_callback_sink_always_exists_and_starts_now() -> None:
    (new, sink), *others = made("")
    assert (new.name, sink.name, new.beginning, others) == ("callbacks", "callbacks", False, [])


def test_scheme_creates_sink_with_its_name() -> None:
    text = "https://a.example#from=beginning stdout: python:json:dumps#name=written"
    sinks = made(text)[1:]
    assert [(new.name, new.beginning) for new, _ in sinks] == [
        ("a.example", True),
        ("stdout", False),
        ("written", False),
    ]
    assert [new.name for new, _ in sinks] == [sink.name for _, sink in sinks]
    here = {"https", "http", "python", "stdout"}
    assert set(SINK_TYPES) == here | set(broker.SCHEMES)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("python:nowhere.hooks:notify", "there is no module `nowhere`. Install it, or correct the name"),
        ("python:json:nothing", "module `json` has no `nothing`. Correct the name"),
        ("python:json:decoder.nothing", "module `json` has no `decoder.nothing`. Correct the name"),
        ("python:json:__version__", "cannot be called"),
        ("python:broken_hooks:notify", "importing `broken_hooks` raised ZeroDivisionError"),
        ("python:bad_syntax:notify", "importing `bad_syntax` raised SyntaxError"),
        ("python:needing:notify", "there is no module `nowhere`. Install it"),
    ],
)
def test_unusable_function_is_refused_in_one_line(
    written: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_hooks.py").write_text(f"{SECRET.replace('-', '_')} = 1 / 0\n")
    (tmp_path / "bad_syntax.py").write_text("def\n")
    (tmp_path / "needing.py").write_text("import nowhere\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SettingsError) as caught:
        made(written)
    assert caught.value.detail.startswith(f"HOMING_SINKS: {written}: ")
    assert says in caught.value.detail
    assert "\n" not in caught.value.detail


def test_working_directory_is_searched_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hooks_from_here.py").write_text("def notify(event): ...\n")
    (tmp_path / "json.py").write_text("raise SystemError\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert len(made("python:hooks_from_here:notify python:json:dumps")) == 3
