"""Requests as attackers, old clients and broken proxies write them."""

from itertools import repeat

from homing.server.strict_http import MAX_HEAD_BYTES, MAX_HEADERS
from tests.support.raw_sockets import REQUEST, post

HOST = b"host: homing.test"
CHUNKED = b"transfer-encoding: chunked"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
UPGRADE = (b"connection: Upgrade, HTTP2-Settings", b"upgrade: h2c", b"http2-settings: AAMAAABkAAQAoAAAAAIAAAAA")


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join([line, *fields, b"", b""])


# Each is refused before the application is called.
HEADS = {
    "length, then coding": post(b"content-length: 5", CHUNKED, body=HELLO),
    "coding, then length": post(CHUNKED, b"content-length: 5", body=HELLO),
    "unknown coding and length": post(b"transfer-encoding: xchunked", b"content-length: 5", body=b"hello"),
    "two lengths": post(b"content-length: 5", b"content-length: 6", body=b"hello!"),
    "the same length twice": post(b"content-length: 5", b"content-length: 5", body=b"hello"),
    "a list of lengths": post(b"content-length: 5, 5", body=b"hello"),
    "a signed length": post(b"content-length: +5", body=b"hello"),
    "a negative length": post(b"content-length: -5", body=b"hello"),
    "a length in hexadecimal": post(b"content-length: 0x5", body=b"hello"),
    "a length with an underscore": post(b"content-length: 0_5", body=b"hello"),
    "an empty length": post(b"content-length: ", body=b"hello"),
    "a length beyond 64 bits": post(b"content-length: 18446744073709551621", body=b"hello"),
    "an unknown coding": post(b"transfer-encoding: xchunked", body=HELLO),
    "no coding": post(b"transfer-encoding: identity", body=HELLO),
    "an empty coding": post(b"transfer-encoding:", body=HELLO),
    "a quoted coding": post(b'transfer-encoding: "chunked"', body=HELLO),
    "a coding behind a vertical tab": post(b"transfer-encoding: \x0bchunked", body=HELLO),
    "two codings": post(b"transfer-encoding: gzip, chunked", body=HELLO),
    "two codings in two fields": post(b"transfer-encoding: identity", CHUNKED, body=HELLO),
    "chunked, and not the last": post(b"transfer-encoding: chunked, identity", body=HELLO),
    "chunked twice": post(CHUNKED, CHUNKED, body=HELLO),
    "an empty element before chunked": post(b"transfer-encoding: ,chunked", body=HELLO),
    "chunked in HTTP/1.0": post(CHUNKED, body=HELLO, version=b"1.0"),
    "a folded field": get(HOST, b"x: a", b" b"),
    "a folded length": post(b"content-length: 1", b" 0", body=b"hello12345"),
    "a folded coding": post(b"transfer-encoding:", b" chunked", body=HELLO),
    "a folded first field": get(b" " + HOST),
    "space before the colon": post(b"content-length : 5", body=b"hello"),
    "a tab before the colon": post(b"transfer-encoding\t: chunked", body=HELLO),
    "space in a name": get(HOST, b"x y: a"),
    "an empty name": get(HOST, b": a"),
    "no colon": get(HOST, b"x"),
    "a NUL in a name": get(HOST, b"x\0: a"),
    "a NUL in a value": get(HOST, b"x: a\0b"),
    "a bare return in a value": get(HOST, b"x: a\rcontent-length: 5"),
    "a bare feed behind a value": get(HOST, b"x: a\ncontent-length: 5"),
    "a bare feed behind the request line": b"GET / HTTP/1.1\n" + HOST + b"\r\n\r\n",
    "a bare feed at the head's end": b"GET / HTTP/1.1\r\n" + HOST + b"\r\n\n",
    "bare feeds alone": b"GET / HTTP/1.1\n" + HOST + b"\n\n",
    "no host": get(),
    "two hosts": get(HOST, b"host: other.test"),
    "two hosts in HTTP/1.0": get(HOST, b"host: other.test", line=b"GET / HTTP/1.0"),
    "two credentials": get(HOST, b"authorization: Bearer a", b"authorization: Bearer b"),
    "the same credential twice": get(HOST, b"authorization: Bearer a", b"Authorization: Bearer a"),
    "an address of another host": get(HOST, line=b"GET http://other.test/tasks HTTP/1.1"),
    "an address of another port": get(HOST, line=b"GET http://homing.test:8000/tasks HTTP/1.1"),
    "an address of a port that is usual elsewhere": get(HOST, line=b"GET http://homing.test:443/tasks HTTP/1.1"),
    "an address with a user": get(HOST, line=b"GET http://homing.test@other.test/tasks HTTP/1.1"),
    "an address with a user and our host": get(HOST, line=b"GET http://me@homing.test/tasks HTTP/1.1"),
    "an address of another scheme": get(HOST, line=b"GET ftp://homing.test/tasks HTTP/1.1"),
    "an address with a host in its query": get(HOST, line=b"GET http://other.test?/homing.test/ HTTP/1.1"),
    "an address without a host field": get(line=b"GET http://homing.test/tasks HTTP/1.0"),
    "an address and an empty host field": get(b"host: ", line=b"GET http://homing.test/tasks HTTP/1.1"),
    "no version": b"GET /\r\n\r\n",
    "an older version": get(HOST, line=b"GET / HTTP/0.9"),
    "a version to come": get(HOST, line=b"GET / HTTP/1.2"),
    "HTTP/2": get(HOST, line=b"GET / HTTP/2.0"),
    "HTTP/2 known beforehand": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a long version": get(HOST, line=b"GET / HTTP/1.10"),
    "an unknown method": get(HOST, line=b"STEAL / HTTP/1.1"),
    "a method in small letters": get(HOST, line=b"get / HTTP/1.1"),
    "a tunnel": get(HOST, line=b"CONNECT homing.test:443 HTTP/1.1"),
    "a tunnel to a path": get(HOST, line=b"CONNECT / HTTP/1.1"),
    "a space in the target": get(HOST, line=b"GET /a b HTTP/1.1"),
    "a target without a slash": get(HOST, line=b"GET tasks HTTP/1.1"),
    "an address without a path": get(HOST, line=b"GET http://homing.test HTTP/1.1"),
    "an address without a host": get(HOST, line=b"GET http:///tasks HTTP/1.1"),
    "a port that is none": get(HOST, line=b"GET http://homing.test:99999/ HTTP/1.1"),
    "a path beyond ASCII": get(HOST, line="GET /ä HTTP/1.1".encode()),
    "a query beyond ASCII": get(HOST, line="GET /?ä HTTP/1.1".encode()),
    "a control character in the path": get(HOST, line=b"GET /\x01 HTTP/1.1"),
    "a NUL in the path": get(HOST, line=b"GET /\0 HTTP/1.1"),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "many fields": get(HOST, *repeat(b"x: a", MAX_HEADERS)),
    "a long field": get(HOST, b"x: " + b"a" * (MAX_HEAD_BYTES + (1 << 15))),
    "a long path": get(HOST, line=b"GET /%b HTTP/1.1" % (b"a" * (MAX_HEAD_BYTES + (1 << 15)))),
}

# Chunked; each is refused on the way.
BODIES = {
    "a size in other notation": b"0x5\r\nhello\r\n0\r\n\r\n",
    "a signed size": b"+5\r\nhello\r\n0\r\n\r\n",
    "a negative size": b"-5\r\nhello\r\n0\r\n\r\n",
    "a size with an underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "space before a size": b" 5\r\nhello\r\n0\r\n\r\n",
    "space behind a size": b"5 \r\nhello\r\n0\r\n\r\n",
    "no size": b"\r\nhello\r\n0\r\n\r\n",
    "a word for a size": b"five\r\nhello\r\n0\r\n\r\n",
    "a size beyond 64 bits": b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    "a bare feed behind a size": b"5\nhello\r\n0\r\n\r\n",
    "a bare return behind a size": b"5\rhello\r\n0\r\n\r\n",
    "a bare feed behind a chunk": b"5\r\nhello\n0\r\n\r\n",
    "a bare feed behind the last size": b"5\r\nhello\r\n0\n\r\n",
    "a bare feed at the end": b"5\r\nhello\r\n0\r\n\n",
    "a chunk that is longer than its size": b"5\r\nhello!\r\n0\r\n\r\n",
    "a bare feed behind an extension": b"5;a=b\nhello\r\n0\r\n\r\n",
    "a bare return in an extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "a bare feed in an extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a length among the trailers": b"5\r\nhello\r\n0\r\ncontent-length: 5\r\n\r\n",
    "a coding among the trailers": b"5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
    "a bare feed among the trailers": b"5\r\nhello\r\n0\r\nx: a\n\r\n",
    "a folded trailer": b"5\r\nhello\r\n0\r\nx: a\r\n b\r\n\r\n",
}

# The beginning of the request, and the bytes that repeat forever.
FLOODS = {
    "empty lines": (b"", b"\r\n" * 512),
    "a method": (b"", b"G" * 1024),
    "a path": (b"GET /", b"a" * 1024),
    "a field's name": (b"GET / HTTP/1.1\r\n", b"a" * 1024),
    "a field's value": (b"GET / HTTP/1.1\r\nx: ", b"a" * 1024),
    "spaces before a value": (b"GET / HTTP/1.1\r\nx:", b" " * 1024),
    "fields": (b"GET / HTTP/1.1\r\n", b"x: a\r\n" * 170),
    "a size": (post(CHUNKED), b"0" * 1024),
    "an extension": (post(CHUNKED), b"5;" + b"a" * 1024),
    "a trailer": (post(CHUNKED, body=b"0\r\nx: "), b"a" * 1024),
    "trailers": (post(CHUNKED, body=b"0\r\n"), b"x: a\r\n" * 170),
}

# With the body that the app gets.
GOOD = {
    "a length": (post(b"content-length: 5", body=b"hello"), b"hello"),
    "a length with spaces": (post(b"content-length: \t5 \t", body=b"hello"), b"hello"),
    "chunks": (post(CHUNKED, body=b"2\r\nhe\r\n003\r\nllo\r\n00\r\n\r\n"), b"hello"),
    "chunks in capitals": (post(b"Transfer-Encoding: CHUNKED", body=b"A\r\nhello home\r\n0\r\n\r\n"), b"hello home"),
    "extensions": (post(CHUNKED, body=b'5;a=b;c="d e"\r\nhello\r\n0;f\r\n\r\n'), b"hello"),
    "trailers": (post(CHUNKED, body=b"5\r\nhello\r\n0\r\nhost: other.test\r\nwebhook-id: 1\r\n\r\n"), b"hello"),
    "an upgrade and a length": (post(*UPGRADE, b"content-length: 5", body=b"hello"), b"hello"),
    "an upgrade and chunks": (post(*UPGRADE, CHUNKED, body=HELLO), b"hello"),
    "a websocket": (get(HOST, b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-key: eA=="), b""),
    "empty lines before it": (b"\r\n\r\n" + post(b"content-length: 5", body=b"hello"), b"hello"),
    "HTTP within": (post(*UPGRADE, b"content-length: %d" % len(REQUEST), body=REQUEST), REQUEST),
}

# With the path and the query that the app gets.
TARGETS = {
    b"/tasks?a=%zz": ("/tasks", b"a=%zz"),
    b"/%zz%/%ff%00%c3%a4": ("/%zz%/\ufffd\x00ä", b""),
    b"//other.test/tasks": ("//other.test/tasks", b""),
    b"/tasks#part?a": ("/tasks", b""),
    b"http://homing.test/tasks?a=b": ("/tasks", b"a=b"),
    b"HTTP://Homing.Test:80/tasks": ("/tasks", b""),
    b"https://homing.test:443/tasks": ("/tasks", b""),
    b"*": ("*", b""),
}
