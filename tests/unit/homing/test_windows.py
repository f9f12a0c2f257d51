"""On Windows, the command prints one line: Windows is not supported."""

import sys

import pytest

from homing.__main__ import main


def test_command_on_windows_is_one_line_and_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "win32")

    assert main() == 2

    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "Windows is not supported" in err
