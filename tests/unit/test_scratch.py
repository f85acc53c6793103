"""Temporary folders: a killed process leaves one, and the next process removes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mibench.store.scratch import LOCK, scratch, sweep

HOLD = """
import time
from mibench.store.scratch import scratch
with scratch("run") as folder:
    print(folder, flush=True)
    time.sleep(99)
"""


def test_what_a_killed_process_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    with process.stdout:
        left = Path(process.stdout.readline().strip())
    (left / "order.json").touch()
    (tmp_path / "mibench-notes").mkdir()
    sweep()
    assert (left / LOCK).exists(), "its process lives"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with scratch("check") as folder:
        assert not left.exists() and folder.parent == tmp_path
        sweep()
        assert folder.is_dir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mibench-notes"]
