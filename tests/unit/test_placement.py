"""Where stages are computed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mibench.errors import UserError
from mibench.running.executors.local import LocalExecutor
from mibench.running.placement import Placement


@pytest.mark.parametrize(
    ("device", "gpus", "reason"),
    [("tpu", None, "Unknown device 'tpu'"), ("cuda:x", None, "Unknown device"), ("cpu", "0", "contradict each other")],
)
def test_a_place_that_is_none_is_refused(device: str, gpus: str | None, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Placement(device, gpus=gpus)


def test_a_cluster_has_devices_of_its_own() -> None:
    assert Placement("cuda:7", slurm={}).slurm == {}


def test_this_machine_computes_as_many_stages_at_a_time_as_asked(tmp_path: Path) -> None:
    executor = Placement("cpu", jobs=3)(tmp_path, {})
    try:
        assert isinstance(executor, LocalExecutor) and executor.free() == 3
    finally:
        executor.close()


def test_torch_is_not_imported_before_there_is_something_to_compute() -> None:
    code = "import sys; from mibench.running.placement import Placement; Placement(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
