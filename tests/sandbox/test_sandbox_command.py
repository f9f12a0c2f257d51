import argparse
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from homing.sandbox import FAULTS
from homing.sandbox.command import add_parser
from tracker.settings import load_settings

SECRET = "whsec_bWFkZSB1cCBmb3IgdGhlc2UgdGVzdHM="
MAIN = """
import argparse, sys
from homing.sandbox.command import add_parser
parser = argparse.ArgumentParser()
add_parser(parser.add_subparsers(required=True))
args = parser.parse_args()
sys.exit(args.run(args))
"""


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers(required=True))
    args = parser.parse_args(["sandbox", *arguments])
    status: int = args.run(args)
    return status


def test_sandbox_prints_settings_to_paste(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAIN, "sandbox", "--port", "0", "--seed", "7", "--webhook-secret", SECRET]
    with subprocess.Popen(
        [*command, "--fault", "submit_busy=1", "--api-key", "made-up"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(8)]
        pasted = tmp_path / ".env"
        pasted.write_text("".join(lines))
        settings = load_settings({}, pasted)
        url = settings.kling_base_url
        assert lines[0].startswith(f"# Sandbox of Kling and Replicate on {url} (seed 7)")
        assert "HOMING_PUBLIC_URL=http://127.0.0.1:8000" in lines[-1]
        assert settings.public_url is None
        assert url.startswith("http://127.0.0.1:")
        assert (settings.kling_api_key, settings.kling_webhook_secrets) == ("made-up", (SECRET,))
        assert (settings.replicate_api_key, settings.replicate_webhook_secrets) == ("made-up", (SECRET,))
        assert settings.replicate_base_url == f"{url}/replicate"
        reply = httpx.post(
            f"{url}/v1/images/omni-image",
            json={"prompt": "a cat"},
            headers={"Authorization": "Bearer made-up"},
            verify=False,
        )
        assert reply.json()["code"] == 1303
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
        assert process.stdout.read() == ""


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (["--fault", "late=1"], ["unknown fault 'late'", *FAULTS]),
        (["--fault", "slow"], ["--fault", "NAME=VALUE"]),
        (["--fault", "slow=often"], ["--fault slow", "a number"]),
        (["--fault", "slow=2"], ["slow", "0 to 1"]),
        (["--seed", "x"], ["--seed", "an integer"]),
        (["--port", "70000"], ["--port", "65535"]),
        (["--host", "nowhere.invalid", "--port", "0"], ["cannot listen on nowhere.invalid"]),
        (["--callback-shape", "xml"], ["legacy"]),
        (["--webhook-secret", "secret"], ["whsec_"]),
        (["--access-key", "only-access"], ["--access-key"]),
        (["--access-key", "ak:short"], ["32 bytes"]),
        (["--run-time", "nan"], ["run_time"]),
        (["--slots", "0"], ["slots"]),
    ],
)
def test_bad_input_exits_with_status_2(
    arguments: list[str], texts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert [text for text in texts if text not in err] == []


def test_taken_port_is_named(taken_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--port", str(taken_port)) == 2
    assert f"cannot listen on 127.0.0.1 port {taken_port} (Address already in use)" in capsys.readouterr().err


def test_sandbox_on_all_interfaces_warns() -> None:
    command = [sys.executable, "-c", MAIN, "sandbox", "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = process.stdout.readline().split()[7]
        warning = process.stderr.readline()
        ledger = httpx.get(f"{url}/sandbox/ledger", trust_env=False)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0

    assert url.startswith("http://127.0.0.1:")
    assert ledger.status_code == 200
    assert "--host 0.0.0.0 makes the sandbox reachable from other machines" in warning
