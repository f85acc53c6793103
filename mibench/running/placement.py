"""Where stages are computed: one value, from what the user chose to an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mibench.protocol.tracks import Track
from mibench.running.devices import check_device, slots
from mibench.running.environment import code_version
from mibench.running.executors import Executor

Place = Callable[[Path, Mapping[str, Track]], Executor]
"""Makes an executor for a home when there is something to compute; with the tracks as they were planned, by id."""


@dataclass(frozen=True)
class Placement:
    """A place of the user's choice. Raises UserError for ``device`` or ``gpus`` that are none, MissingError for GPUs
    that are not here. torch is imported to look at a GPU that was asked for by name; otherwise, when an executor is
    made."""

    device: str = "auto"  # auto, cpu, cuda or cuda:N
    jobs: int | None = None  # stages at a time; None: as many as fit
    gpus: str | None = None  # 0,1 or all
    per_gpu: int = 1  # stages at a time on each
    limit: float | None = None  # seconds after which a stage is ended
    slurm: Mapping[str, str | bool] | None = None  # options of sbatch; None: this machine

    def __post_init__(self) -> None:
        if self.slurm is None:
            check_device(self.device, self.gpus)

    def __call__(self, home: Path, tracks: Mapping[str, Track]) -> Executor:
        if self.slurm is not None:
            from mibench.running.executors.slurm.executor import SlurmExecutor

            return SlurmExecutor(home, self.slurm, tracks, self.jobs, self.limit, code_version())
        from mibench.running.executors.local import LocalExecutor

        devices = slots(self.device, self.jobs, self.gpus, self.per_gpu)
        return LocalExecutor(home, devices, tracks, self.limit, code_version())
