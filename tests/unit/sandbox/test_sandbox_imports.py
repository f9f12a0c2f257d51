import subprocess
import sys

PLUGIN = "import homing.sandbox.fixture, sys; print(*sys.modules)"
WHOLE = "import homing.sandbox.server, homing.sandbox.command, sys; print(*sys.modules)"


def modules(program: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_plugin_loads_no_web_server() -> None:
    assert modules(PLUGIN).isdisjoint({"starlette", "uvicorn", "httpx", "jwt", "sqlalchemy", "tracker", "receiver"})


def test_sandbox_shares_no_protocol_code_with_homing() -> None:
    assert modules(WHOLE).isdisjoint({"tracker", "receiver", "sqlmodel", "pydantic"})
