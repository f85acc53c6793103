"""What a stage says while it is computed, and what becomes of it: from its worker to whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from mibench.errors import EXIT_FAILED


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Progress(_Event):
    """``step`` of ``steps`` (0: nobody knows how many) of what is called ``name``."""

    event: Literal["progress"] = "progress"
    name: str
    step: int = 0
    steps: int = 0
    loss: float | None = None


class Note(_Event):
    """A sentence for the user."""

    event: Literal["note"] = "note"
    message: str


class Done(_Event):
    event: Literal["done"] = "done"


class Failed(_Event):
    """``ended``: somebody else ended it, by a signal."""

    event: Literal["failed"] = "failed"
    message: str
    exit_code: int = EXIT_FAILED
    ended: bool = False


class Stopped(_Event):
    """It was asked to end, and goes on from there."""

    event: Literal["stopped"] = "stopped"


class Started(_Event):
    """``device``: where."""

    event: Literal["started"] = "started"
    device: str


class Elsewhere(_Event):
    """Another coordinator's worker computes it."""

    event: Literal["elsewhere"] = "elsewhere"


Last = Done | Failed | Stopped
Said = Progress | Note | Last  # by a worker
Event = Said | Started | Elsewhere
Emit = Callable[[Said], None]

_SAID: TypeAdapter[Said] = TypeAdapter(Annotated[Said, Field(discriminator="event")])


def read_line(line: str) -> Said:
    """What a line of a worker's output says; a method's own output is a note."""
    try:
        return _SAID.validate_json(line)
    except ValidationError:
        return Note(message=line.rstrip())
