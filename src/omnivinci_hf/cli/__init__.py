"""The command line: `omnivinci-hf`, also `python -m omnivinci_hf`."""

import contextlib
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from .arguments import parse_arguments
from .files import check_files


EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Input that cannot be used ends in one line on stderr and code 2; an error that nobody foresaw keeps its traceback.
    """
    arguments = parse_arguments(sys.argv[1:] if argv is None else list(argv))
    try:
        # where it is installed, it reports the optional kernels that it lacks as soon as anything imports it
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
        with _terminated_as_exception():
            check_files(arguments)
            # everything heavy is imported here, after the arguments were found good
            from . import commands

            getattr(commands, f"run_{arguments.command}")(arguments)
            sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if not _is_bad_input(error):
            raise
        words = " ".join(_message(error).split()) or type(error).__name__
        print(f"omnivinci-hf: {words}", file=sys.stderr)
        return EXIT_BAD_INPUT
    return 0


def _message(error: Exception) -> str:
    """Without the traceback that a worker process of a DataLoader packs into its error."""
    text = str(error)
    if "Original Traceback" not in text:
        return text
    return text[text.rindex("\n", 0, text.rstrip().rindex("Error: ")) :].partition(": ")[2]


def _is_bad_input(error: Exception) -> bool:
    from safetensors import SafetensorError  # a damaged file of weights

    # an optional package that is not there is named with its remedy
    return isinstance(error, (ValueError, OSError, ImportError, SafetensorError))


@contextlib.contextmanager
def _terminated_as_exception() -> Iterator[None]:
    """SIGTERM unwinds the stack as an interrupt does, so that half-written folders are deleted."""

    def stop(number, frame):
        raise SystemExit(128 + number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _silence_stdout() -> None:
    # the interpreter flushes stdout once more when it ends
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
