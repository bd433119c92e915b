"""This script prints a text when a server accepts connections; it goes on while the process that started it goes on.

It runs by its path, with the standard library alone: PID TEXT HOST PORT, or PID TEXT SOCKET.
"""

import os
import socket
import sys
import time
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> None:
    """Waits for the server, unless it ends."""
    pid, text, *place = arguments
    while _is_running(int(pid)):
        if _accepts(place):
            print(text, file=sys.stderr, flush=True)
            return
        time.sleep(0.5)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _accepts(place: Sequence[str]) -> bool:
    try:
        if len(place) == 1:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(place[0])
        else:
            socket.create_connection((place[0], int(place[1])), timeout=5).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if os.fork() == 0:  # it is nobody's child, so that the server does not have to wait for it
        main(sys.argv[1:])
