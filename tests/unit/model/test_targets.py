"""Tests of webhook targets: Homing calls public addresses and addresses that the operator allows, in any notation."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.model.targets import PUBLIC_ONLY, Allowed, callback_refusal, is_public, read_allowed, refusal

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:2800:220:1:248:1893:25c8:1946", "::ffff:8.8.8.8", "64:ff9b::808:808"]
MAYBE_PUBLIC = ("2000::/3", "::ffff:0:0/96", "64:ff9b::/96")
PRIVATE = [
    "127.0.0.1",
    "127.8.8.8",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "168.63.129.16",
    "::ffff:168.63.129.16",
    "64:ff9b::a83f:8110",
    "2002:a83f:8110::1",
    "100.100.100.200",
    "192.0.0.192",
    "192.88.99.1",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::a9fe:a9fe",
    "100.64.0.1",
    "192.0.0.8",
    "3fff::1",
    "192.0.0.1",
    "198.18.0.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd12:3456::1",
    "fec0::1",
    "ff02::1",
    "2001:db8::1",
    "4000::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:a00:1::",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed(address: str) -> None:
    assert refusal("hook.example", address, PUBLIC_ONLY, encrypted=True) is None


@pytest.mark.parametrize("address", PRIVATE)
def test_private_address_is_refused_with_the_setting(address: str) -> None:
    message = refusal("hook.example", address, PUBLIC_ONLY, encrypted=True)
    assert message is not None
    assert "HOMING_ALLOWED_TARGETS" in message


@given(st.ip_addresses(v=6), st.ip_addresses(v=4))
def test_embedded_private_address_is_not_public(random: ipaddress.IPv6Address, inner: ipaddress.IPv4Address) -> None:
    assert not is_public(random) or any(random in ipaddress.ip_network(network) for network in MAYBE_PUBLIC)
    mapped, translated = ipaddress.IPv6Address(f"::ffff:{inner}"), ipaddress.IPv6Address(f"64:ff9b::{inner}")
    assert is_public(mapped) == is_public(translated) == is_public(inner)


def test_http_is_refused_unless_allowed() -> None:
    assert "Use https" in (refusal("hook.example", "8.8.8.8", PUBLIC_ONLY, encrypted=False) or "")
    assert refusal("hook.example", "8.8.8.8", read_allowed(("8.8.8.0/24",)), encrypted=False) is None
    assert refusal("Hook.Example.", "10.0.0.1", read_allowed(("hook.example",)), encrypted=False) is None


def test_allowed_network_allows_only_its_addresses() -> None:
    allowed = read_allowed(("10.1.0.0/16", "fd00::/8", "::1"))
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "fd00::1", "::1"):
        assert refusal("hook.internal", address, allowed, encrypted=True) is None
    for address in ("10.2.0.1", "fe80::1", "127.0.0.1"):
        assert refusal("hook.internal", address, allowed, encrypted=True) is not None


@pytest.mark.parametrize(
    "target", ["10.0.0.1/8", "https://hook.example", "a b", "*.example", "0x7f.1", "user@host", "-a"]
)
def test_invalid_allowed_target_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match="Write networks such as"):
        read_allowed((target,))


@pytest.mark.parametrize(
    "url",
    [
        "https://client.example.com/done",
        "https://client.example.com:8443/done?task=1#part",
        "HTTPS://client.example.com",
        "https://8.8.8.8/",
        "https://[2606:2800:220:1:248:1893:25c8:1946]/",
        "https://bücher.example/",
        "https://under_score.example.com/",
    ],
)
def test_public_callback_url_is_allowed(url: str) -> None:
    assert callback_refusal(url, PUBLIC_ONLY) is None


INWARD = [
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f000001/",
    "https://0x7f.0.0.1/",
    "https://0177.0.0.1/",
    "https://0/",
    "https://0.0.0.0/",
    "https://10.0.0.1/",
    "https://169.254.169.254/latest/meta-data",
    "https://168.63.129.16/machine",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[fe80::1]/",
    "https://[fd00::1]/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://a.localhost/",
    "https://printer.local/",
    "https://metadata.google.internal/",
    "https://router.lan/",
    "https://box.home.arpa/",
    "https://intranet/",
    "https://postgres:5432/",
    "https://①②⑦.⓪.⓪.①/",
    "https://\N{FULLWIDTH LATIN SMALL LETTER L}ocalhost/",
    "https://127。0。0。1/",
]


@pytest.mark.parametrize("url", INWARD)
def test_internal_callback_url_is_refused(url: str) -> None:
    assert "must not point" in (callback_refusal(url, PUBLIC_ONLY) or "")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://client.example.com/",
        "javascript:1",
        "client.example.com/done",
        "https://",
        "https:///done",
        "https://client.example.com:99999/",
        "https://client.example.com:0/",
        "https://client.example.com:x/",
        "https://[::1/",
        "https://client.example.com/ done",
        "https://good.example\\@127.0.0.1/",
        "https://client.example.com/\n",
        "https://a..example/",
        "https://" + "a" * 64 + ".example/",
        "https://client.example.com/" + "a" * 2048,
        "https://user@client.example.com/",
        "https://user:password@client.example.com/",
        "https://client.example.com@127.0.0.1/",
        "http://client.example.com/done",
        "http://8.8.8.8/done",
    ],
)
def test_invalid_callback_url_is_refused(url: str) -> None:
    assert callback_refusal(url, PUBLIC_ONLY) is not None


def test_allowed_callback_url_needs_no_tls() -> None:
    allowed = read_allowed(("127.0.0.0/8", "client.internal"))
    for url in ("http://127.0.0.1:9/", "https://[::ffff:127.0.0.1]/", "http://client.internal/"):
        assert callback_refusal(url, allowed) is None
    assert callback_refusal("http://10.0.0.1/", allowed) is not None
    # The address is not known yet. The check at connection time decides.
    assert callback_refusal("http://hooks/", allowed) is None
    assert callback_refusal("http://hooks/", Allowed(hosts=frozenset({"other"}))) is not None
