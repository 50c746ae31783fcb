"""What the launcher said about this process, read before torch is imported and before any group exists."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path


def launched_rank() -> int:
    """Rank given by the launcher, 0 where there is none; a malformed value is left for `open_group` to refuse."""
    text = os.environ.get("RANK", "0")
    return int(text) if text.isdigit() else 0


def rank_environment(rank: int, world: int) -> dict[str, str]:
    """What a launcher tells a rank of one machine, for processes that are started without torchrun."""
    place = {"RANK": rank, "WORLD_SIZE": world, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": 0}
    return {**{name: str(value) for name, value in place.items()}, "MASTER_ADDR": "localhost"}


def under_torchrun() -> bool:
    """Whether an elastic agent watches this process and will show the error file of the rank that failed first."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def recorded(function: Callable[[], int]) -> int:
    """Calls `function`; under torchrun its traceback goes to the agent's error file, so the real cause is shown."""
    if not under_torchrun():
        return function()
    from torch.distributed.elastic.multiprocessing.errors import record

    status = record(function)()
    assert status is not None, "record swallows only SystemExit(0), which training does not raise"
    return status


def leave_sentence(error: Exception) -> None:
    """Replaces the traceback in the agent's error file by the sentence, for what the user can mend; else does nothing.

    Each rank does so, since torchrun shows the failure of the rank that failed first, whichever that is.
    """
    name = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if name is None or not under_torchrun():
        return
    sentence = f"{type(error).__name__}: {error}"
    # The agent orders failures by this time stamp, in seconds and as text.
    extra = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
    Path(name).write_text(json.dumps({"message": {"message": sentence, "extraInfo": extra}}))
