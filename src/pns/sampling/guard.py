"""Runs a command in a process group of its own, and ends the whole group when this process is told to end, or its parent dies.

    python -m pns.sampling.guard PARENT COMMAND ...

A stage that is killed cannot end the servers that it has started, so somebody else has to. (Source: ours.)
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time

LOOK_SECONDS, GRACE_SECONDS = 0.2, 10.0


def main(parent: int, command: list[str]) -> int:
    """Exit code of the command, or 143 where its group was ended."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole foreground; the parent decides
    try:
        process = subprocess.Popen(command, start_new_session=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        sys.exit(f"{command[0]}: {error.strerror}")
    while process.poll() is None and not told and os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    code = process.poll()
    _end(process)
    return 143 if code is None else code


def _end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the group, and SIGKILL to what is left of it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
