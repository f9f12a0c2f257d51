"""Posts to untrusted URLs: only a checked address is dialed, and each failure has a clear message."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from socket import gaierror

import pytest

from tests.support.web_receiver import Request, WebReceiver, reply
from tracker.errors import NotSent, ReplyLost
from tracker.model.targets import PUBLIC_ONLY, Allowed, callback_refusal, read_allowed
from tracker.transport import Answer, Poster, TargetRefused, dial_target
from tracker.transport.guarded_http import Resolve
from tracker.transport.provider_http import CONNECT_SECONDS

LOOPBACK = read_allowed(("127.0.0.0/8",))
SECOND = timedelta(seconds=10)
TLS = Path(__file__).parents[1] / "samples" / "tls"


def names(**addresses: Sequence[str]) -> Resolve:
    """Return a resolver of some hosts (an underscore is a dot). Each lookup returns the next addresses of the host."""
    known = {name.replace("_", "."): iter(answers) for name, answers in addresses.items()}

    async def resolve(host: str, port: int) -> Sequence[str]:
        del port
        if host not in known:
            raise gaierror(8, "unknown host")
        return next(known[host]).split()

    return resolve


@asynccontextmanager
async def posting(
    allowed: Allowed = LOOPBACK, *, resolve: Resolve | None = None, trust: ssl.SSLContext | None = None
) -> AsyncIterator[Poster]:
    poster = Poster(allowed, resolve=resolve, trust=trust)
    await poster.open()
    try:
        yield poster
    finally:
        await poster.close()


async def post(poster: Poster, url: str, within: timedelta = SECOND) -> Answer:
    return await poster.post(url, b"{}", {"content-type": "application/json"}, within=within)


def served_tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of the server and the client for hooks.test."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(TLS / "hooks.test.pem", TLS / "hooks.test.key")
    return server, ssl.create_default_context(cafile=str(TLS / "hooks.test.pem"))


async def test_name_rebound_to_private_address_is_refused() -> None:
    async with WebReceiver() as inside:
        url = f"https://rebound.example:{inside.port}/"
        assert callback_refusal(url, PUBLIC_ONLY) is None
        async with posting(PUBLIC_ONLY, resolve=names(rebound_example=["127.0.0.1"])) as poster:
            with pytest.raises(TargetRefused, match=r"rebound.example is refused: it is not on the public internet"):
                await post(poster, url)
        assert inside.connections == 0


async def test_one_private_address_is_enough_to_refuse() -> None:
    async with WebReceiver() as inside:
        for addresses in ("8.8.8.8 127.0.0.1", "127.0.0.1 8.8.8.8", "8.8.8.8 ::ffff:127.0.0.1", "::1"):
            async with posting(PUBLIC_ONLY, resolve=names(mixed_example=[addresses])) as poster:
                with pytest.raises(TargetRefused):
                    await post(poster, f"https://mixed.example:{inside.port}/")
        assert inside.connections == 0


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "0.0.0.0",
        "localhost",
        "[::1]",
        "[::ffff:7f00:1]",
    ],
)
@pytest.mark.parametrize("before", ["", "client.example.com@", "client.example.com:443@"])
async def test_unusual_loopback_spelling_is_refused(host: str, before: str) -> None:
    async with WebReceiver() as inside, posting(PUBLIC_ONLY) as poster:
        for scheme in ("https", "http"):
            with pytest.raises((TargetRefused, NotSent)):
                await post(poster, f"{scheme}://{before}{host}:{inside.port}/")
        assert inside.connections == 0


async def test_each_connection_is_checked_again() -> None:
    async def hanging_up(_: Request) -> bytes:
        return reply(200, b"", connection="close")

    resolve = names(moving_example=["127.0.0.1", "127.0.0.2"])
    allowed = read_allowed(("127.0.0.1",))
    async with WebReceiver(answer=hanging_up) as receiver, posting(allowed, resolve=resolve) as poster:
        url = f"http://moving.example:{receiver.port}/"
        assert (await post(poster, url)).status == 200
        with pytest.raises(TargetRefused):
            await post(poster, url)
        assert receiver.connections == 1


async def test_tls_verifies_the_name_not_the_address() -> None:
    server, trust = served_tls()
    resolve = names(hooks_test=["127.0.0.1"] * 2, other_test=["127.0.0.1"])
    async with WebReceiver(tls=server) as receiver, posting(resolve=resolve, trust=trust) as poster:
        assert (await post(poster, f"https://hooks.test:{receiver.port}/hook")).status == 204
        assert receiver.got[0].headers["host"] == f"hooks.test:{receiver.port}"
        with pytest.raises(NotSent, match="its certificate is not trusted: Hostname mismatch"):
            await post(poster, f"https://other.test:{receiver.port}/hook")


async def test_tls_unknown_certificate_is_refused() -> None:
    server, _ = served_tls()
    async with (
        WebReceiver(tls=server) as receiver,
        posting(resolve=names(hooks_test=["127.0.0.1"])) as poster,
    ):
        with pytest.raises(NotSent, match="its certificate is not trusted"):
            await post(poster, f"https://hooks.test:{receiver.port}/hook")
        assert receiver.got == []


async def test_second_address_is_tried_after_the_first() -> None:
    async with WebReceiver() as receiver, posting(resolve=names(two_example=["127.0.0.2 127.0.0.1"])) as poster:
        assert (await post(poster, f"http://two.example:{receiver.port}/")).status == 204


async def test_environment_proxies_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with WebReceiver() as proxy, WebReceiver() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with posting() as poster:
            assert (await post(poster, receiver.url)).status == 204
        assert (proxy.connections, len(receiver.got)) == (0, 1)


async def test_redirect_is_not_followed() -> None:
    async with WebReceiver() as inside:

        async def elsewhere(_: Request) -> bytes:
            return reply(302, location=inside.url)

        async with WebReceiver(answer=elsewhere) as receiver, posting() as poster:
            assert (await post(poster, receiver.url)).status == 302
        assert inside.connections == 0


async def test_post_failures_have_fixed_messages() -> None:
    async def hang_up(_: Request) -> None:
        return None

    async def nonsense(_: Request) -> bytes:
        return b"made-up-secret-nonsense\r\n\r\n"

    async with WebReceiver() as gone:
        pass
    async with posting(resolve=names(hooks_example=["127.0.0.1"] * 9)) as poster:
        with pytest.raises(NotSent, match="its name cannot be resolved"):
            await post(poster, "https://nobody.example/")
        with pytest.raises(NotSent, match="connection refused"):
            await post(poster, f"http://hooks.example:{gone.port}/")
        with pytest.raises(NotSent, match="address cannot be read"):
            await post(poster, "gopher://hooks.example/")
        for answer in (hang_up, nonsense):
            async with WebReceiver(answer=answer) as receiver:
                with pytest.raises(ReplyLost) as caught:
                    await post(poster, f"http://hooks.example:{receiver.port}/made-up-secret")
                assert caught.value.detail == "the connection broke before an answer"


async def test_silent_receiver_times_out() -> None:
    silence = asyncio.Event()

    async def nothing(_: Request) -> None:
        await silence.wait()

    async with WebReceiver(answer=nothing) as receiver, posting() as poster:
        with pytest.raises(ReplyLost, match=r"no answer within 0.1 s"):
            await post(poster, receiver.url, timedelta(seconds=0.1))
        silence.set()


async def test_silent_resolver_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forever(host: str, port: int) -> Sequence[str]:
        del host, port
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr("tracker.transport.guarded_http.CONNECT_SECONDS", 0.1)
    async with posting(resolve=forever) as poster:
        with pytest.raises(NotSent, match=r"could not connect within 0.1 s"):
            await post(poster, "https://slow.example/")
    assert CONNECT_SECONDS == 5


@pytest.mark.parametrize("length", [0, 4_000, 10_000_000])
async def test_response_counts_after_its_head(length: int) -> None:
    async def dripping(_: Request) -> bytes:
        return f"HTTP/1.1 200 OK\r\ncontent-length: {length + 1}\r\n\r\n".encode() + bytes(length)

    async with WebReceiver(answer=dripping) as receiver, posting() as poster:
        assert (await post(poster, receiver.url)).status == 200


async def test_connection_is_reused() -> None:
    async def chatty(_: Request) -> bytes:
        return reply(200, b"x" * 1000)

    async with WebReceiver(answer=chatty) as receiver, posting() as poster:
        for _ in range(3):
            await post(poster, receiver.url)
        assert [request.connection for request in receiver.got] == [1, 1, 1]


async def test_url_user_name_is_sent_as_basic_auth() -> None:
    async with WebReceiver() as receiver, posting() as poster:
        await post(poster, receiver.url.replace("//", "//user:p%40ss@"))
        assert receiver.got[0].headers["authorization"] == "Basic dXNlcjpwQHNz"
        assert receiver.got[0].headers["host"] == f"127.0.0.1:{receiver.port}"


async def test_target_is_dialed_without_posting() -> None:
    server, trust = served_tls()
    async with WebReceiver() as plain, WebReceiver(tls=server) as encrypted:
        await dial_target("127.0.0.1", plain.port, LOOPBACK, encrypted=False)
        with pytest.raises(NotSent, match="its certificate is not trusted"):
            await dial_target("127.0.0.1", encrypted.port, LOOPBACK, encrypted=True, trust=trust)
        assert not plain.got
    with pytest.raises(NotSent, match="connection refused"):
        await dial_target("127.0.0.1", plain.port, LOOPBACK, encrypted=False)
    with pytest.raises(TargetRefused, match="HOMING_ALLOWED_TARGETS"):
        await dial_target("localhost", 443, PUBLIC_ONLY, encrypted=True)
    with pytest.raises(NotSent, match="its name cannot be resolved"):
        await dial_target("nobody.invalid", 443, PUBLIC_ONLY, encrypted=True)
