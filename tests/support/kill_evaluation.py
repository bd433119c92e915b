"""Kills an evaluation after three answers, goes on with it, and does another one without an end in between.

    python -m tests.support.kill_evaluation KILLED WHOLE ARGUMENT ...

KILLED and WHOLE are the folders of the results, the arguments those of `omnivinci-hf eval`. Every run is a process of
its own, forked after the imports. Prints how many answers were there when the first one was killed.
"""

import os
import signal
import sys
import time
from pathlib import Path

import omnivinci_hf.cli.evaluate  # noqa: F401 (the processes shall not import it one after the other)
from omnivinci_hf.cli import main


def start(output: str, arguments: list[str]) -> int:
    """Starts an evaluation and returns the number of its process."""
    pid = os.fork()
    if not pid:
        os._exit(main(["eval", *arguments, "--output", output]))
    return pid


def count_answers(file: Path) -> int:
    return file.read_bytes().count(b"\n") if file.exists() else 0


if __name__ == "__main__":
    killed, whole, *arguments = sys.argv[1:]
    answers = Path(killed) / "answers.jsonl"
    pid = start(killed, arguments)
    while count_answers(answers) < 3 and os.waitpid(pid, os.WNOHANG) == (0, 0):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL, "the first run ended by itself"
    number = count_answers(answers)
    with answers.open("ab") as stream:
        stream.write(b'{"id": "torn')
    for folder in (killed, whole):
        assert os.waitpid(start(folder, arguments), 0)[1] == 0, f"the run in {folder} failed"
    print(number)
