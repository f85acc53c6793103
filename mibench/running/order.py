"""What a worker is asked to do: a file that an executor writes and the worker reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mibench.errors import UserError
from mibench.planning.plan import Stage
from mibench.protocol.tracks import Track
from mibench.store import atomic


class Order(BaseModel):
    """Compute ``stage`` on ``device`` for the store in ``home``.

    track: as it was planned; without it, as the registry has it. code: which code this is (``running.environment``).
    tethered: the executor reads the worker's standard output and holds its standard input open while it lives.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    device: str
    stage: Stage
    track: Track | None = None
    code: dict[str, Any] | None = None
    tethered: bool = True

    def write(self, path: Path) -> Path:
        atomic.write_text(path, self.model_dump_json())
        return path

    @classmethod
    def read(cls, path: Path) -> Order:
        """Raises UserError for a file that is no order."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            raise UserError(f"{path} is no order for a worker: {error}") from None
