"""The private uvicorn classes have not changed since homing/server/strict_http.py was written."""

import inspect
from hashlib import sha256
from importlib.metadata import version

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

# StrictConnection overrides and repeats parts of these classes, so a change anywhere in them may matter.
SOURCES = {
    FlowControl: "126debcdaa894c83ed9491b41cb3b99c97469f00520f2483d2a5d1f53de91fa4",
    HttpToolsProtocol: "18fdf324b11bf160e38739eed01a48516b460be9e88f1e20e4546e7363fd9232",
    RequestResponseCycle: "e67d470d435dcc1ce6de9773841524a4439a06afd3a7243e458dc7f7c952b310",
    ServerState: "f2260fbf1015474626a79b73b09e82693b847968752783d75d63a29cddc5bc6b",
}


@pytest.mark.parametrize("private", SOURCES, ids=lambda private: private.__name__)
def test_private_class_is_the_tested_one(private: type) -> None:
    found = sha256(inspect.getsource(private).encode()).hexdigest()

    assert found == SOURCES[private], (
        f"uvicorn {version('uvicorn')} changed the private class {private.__module__}.{private.__qualname__}. "
        "Compare it with the last version in the range of pyproject.toml, adapt homing/server/strict_http.py and "
        "connections.py, and run tests/server/test_strict_http.py and test_connections.py. "
        f"Then write the new range, and here the digest {found}"
    )
