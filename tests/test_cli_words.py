"""Errors of the command line speak of its options, and end in one line whatever fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError

from omnivinci_hf.cli import main
from omnivinci_hf.cli.words import in_own_words


OPTIONS = {
    "on_damage": "--on-damage",
    "media_limits": "--media-limit",
    "max_length": "--max-length",
    "overwrite": "--overwrite",
    "start_sec": "--start",
    "model": "--model",
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('keep what is whole: on_damage="warn".', "keep what is whole: --on-damage warn."),
        ('`on_damage` must be "raise"', '--on-damage must be "raise"'),
        ('allow it with media_limits={"max_frames": 3000}.', "allow it with --media-limit max_frames=3000."),
        ("which `max_length`=5 would cut", "which --max-length 5 would cut"),
        ("a new folder, or `overwrite=True`.", "a new folder, or --overwrite."),
        ("a shorter range (`start_sec`, `end_sec`)", "a shorter range (--start, `end_sec`)"),
        ("the model, of `model_type`='vila', is as a=b", "the model, of `model_type`='vila', is as a=b"),
    ],
)
def test_arguments_become_options(text, words):
    assert in_own_words(text, OPTIONS) == words


def test_a_damaged_film_is_told_with_the_option_that_reads_it(tmp_path, capsys):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    assert main(["inspect", str(tmp_path / "a.wav"), "--media-limit", "max_audio_sec=0.5"]) == 2
    assert "--media-limit max_audio_sec=1" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "a.wav"), "--media-limit", "max_audio_sec=1", "--end", "0.5", "--json"]) == 0
    assert '"duration_sec": 0.5' in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HTTPError("Name or service not known"), "The Hub cannot be reached: Name or service not known"),
        (ImportError("needs the package peft"), "needs the package peft"),
        (PermissionError(13, "Permission denied", "/root"), "[Errno 13] Permission denied: '/root'"),
        (Exception("No space left on device (os error 28)"), "No space left on device (os error 28)"),
    ],
)
def test_what_the_machine_lacks_is_one_line(monkeypatch, capsys, error, line):
    import omnivinci_hf.cli.commands as commands

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(commands, "inspect_media", fail)
    assert main(["inspect", __file__]) == 2
    assert capsys.readouterr().err == f"omnivinci-hf: {line}\n"


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "omnivinci_hf", *words]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_behind_stdout_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run(command("train", "--list-recipes"), stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "No space left on device" in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="a pipe as of a shell")
def test_help_for_a_reader_that_goes_away_is_no_error():
    line = f"({' '.join(command('train', '--help'))}; echo code $? >&2) | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.stderr in ("code 141\n", "code 0\n")


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_an_interrupt_during_the_imports_is_silent():
    script = (
        "import signal, os, sys, omnivinci_hf.cli as cli\n"
        "class Finder:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Finder())\n"
        f"sys.exit(cli.main(['inspect', {__file__!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, "")
