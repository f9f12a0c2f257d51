import subprocess
import sys

PLUGIN = "import homing.sandbox.fixture, sys; print(*sys.modules)"
WHOLE = "import homing.sandbox.server, homing.sandbox.command, sys; print(*sys.modules)"


def modules(program: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_plugin_brings_no_web_server_into_a_test_run() -> None:
    assert modules(PLUGIN).isdisjoint({"starlette", "uvicorn", "httpx", "jwt", "sqlalchemy", "tracker", "receiver"})


def test_the_sandbox_shares_no_reading_of_the_protocol_with_homing() -> None:
    assert modules(WHOLE).isdisjoint({"tracker", "receiver", "sqlmodel", "pydantic"})
