"""This package is the command line: `omnivinci-hf`, also `python -m omnivinci_hf`."""

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence

from .arguments import parse_arguments
from .error_text import in_words_of_options
from .files import check_files


EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_BROKEN_PIPE = 141  # as a shell reports a program that SIGPIPE ended

# An optional package that is not there is named with its remedy.
PLAIN_ERRORS = (ValueError, OSError, ImportError)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code.

    Input that cannot be used ends in one line on stderr and code 2; an error that nobody foresaw keeps its traceback.
    """
    options: dict[str, str] = {}
    try:
        try:
            arguments = parse_arguments(sys.argv[1:] if argv is None else list(argv))
            options = arguments.options
            _run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:
        if not _is_bad_input(error):
            raise
        words = " ".join(in_words_of_options(_message(error), options).split()) or type(error).__name__
        print(f"omnivinci-hf: {words}", file=sys.stderr)
        if isinstance(error, OSError):
            _silence_stdout()  # it may be what has no more room
        return EXIT_BAD_INPUT
    return 0


def _run(arguments: argparse.Namespace) -> None:
    # where it is installed, it reports the optional kernels that it lacks as soon as anything imports it
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    with _handled(signal.SIGTERM, _unwind):
        check_files(arguments)
        with _handled(signal.SIGINT, _leave):
            # everything heavy is imported here, after the arguments were found good
            from . import commands
        getattr(commands, f"run_{arguments.command}")(arguments)


def _message(error: Exception) -> str:
    """The text of an error, without the traceback that a worker process of a DataLoader packs into its error."""
    text = str(error)
    if not isinstance(error, PLAIN_ERRORS) and isinstance(error, _http_error()):
        return f"The Hub cannot be reached: {text}"
    if "Original Traceback" not in text:
        return text
    return text[text.rindex("\n", 0, text.rstrip().rindex("Error: ")) :].partition(": ")[2]


def _is_bad_input(error: Exception) -> bool:
    if isinstance(error, PLAIN_ERRORS):
        return True
    from safetensors import SafetensorError  # a damaged file of weights

    # the tokenizers' own errors have no class
    return isinstance(error, (SafetensorError, _http_error())) or "(os error " in str(error)


def _http_error() -> type[Exception]:
    from huggingface_hub.errors import HTTPError  # of httpx or httpx2, by its version

    return HTTPError


@contextlib.contextmanager
def _handled(number: int, handler: Callable) -> Iterator[None]:
    try:
        before = signal.signal(number, handler)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(number, before)


def _unwind(number: int, frame) -> None:
    """Ends as an interrupt does, so that half-written folders are deleted."""
    raise SystemExit(128 + number)


def _leave(number: int, frame) -> None:
    """Ends at once: libraries that are being imported make other errors of an interrupt."""
    os._exit(128 + number)


def _silence_stdout() -> None:
    # the interpreter flushes stdout once more when it ends
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
