"""Errors of the command line speak of its options, and end in one line whatever fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub.errors import HTTPError

from omnivinci_hf.cli import main
from omnivinci_hf.cli.arguments import DEFAULT_MODEL, _build_parsers, parse_arguments
from omnivinci_hf.cli.error_text import in_words_of_options
from omnivinci_hf.omnivinci.checkpoint_files_omnivinci import ORIGINAL
from omnivinci_hf.omnivinci.options_omnivinci import CALL_OPTIONS, TEXT_OPTIONS
from omnivinci_hf.small import small_checkpoint


OPTIONS = {
    "on_damage": "--on-damage",
    "media_limits": "--media-limits",
    "max_length": "--max-length",
    "overwrite": "--overwrite",
    "start_sec": "--start-sec",
    "model": "--model",
}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('keep what is whole: on_damage="warn".', "keep what is whole: --on-damage warn."),
        ('`on_damage` must be "raise"', '--on-damage must be "raise"'),
        ('allow it with media_limits={"max_frames": 3000}.', "allow it with --media-limits max_frames=3000."),
        ("which `max_length`=5 would cut", "which --max-length 5 would cut"),
        ("with `overwrite=False` it is kept", "with --no-overwrite it is kept"),
        ("a new folder, or `overwrite=True`.", "a new folder, or --overwrite."),
        ("a shorter range (`start_sec`, `end_sec`)", "a shorter range (--start-sec, `end_sec`)"),
        (
            "file 'fps/max_length=3.0/a.mp4' or 'max_length=3.0/a.mp4'",
            "file 'fps/max_length=3.0/a.mp4' or 'max_length=3.0/a.mp4'",
        ),
        ("`messages[0].content[0]`: `start_sec` must be", "`messages[0].content[0]`: `start_sec` must be"),
        ("the model, of `model_type`='vila', is as a=b", "the model, of `model_type`='vila', is as a=b"),
    ],
)
def test_arguments_become_options(text, words):
    assert in_words_of_options(text, OPTIONS) == words


def test_a_damaged_film_is_told_with_the_option_that_reads_it(tmp_path, capsys):
    import wave

    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    assert main(["inspect", str(tmp_path / "a.wav"), "--media-limits", "max_audio_sec=0.5"]) == 2
    assert "--media-limits max_audio_sec=1" in capsys.readouterr().err
    words = ["inspect", str(tmp_path / "a.wav"), "--media-limits", "max_audio_sec=1", "--end-sec", "0.5", "--json"]
    assert main(words) == 0
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


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["ask", "http://a.b/c.mp4", "What?"], "URLs are not fetched; download the file first and give its path."),
        (["ask", "data:video/mp4;base64,AAAA", "What?"], "cannot be decoded"),
        (["ask", "What \udcff?"], "The words hold half of a character"),
        (["train", "--data", "no.jsonl"], "no.jsonl does not exist; check the path."),
        (["train", "--eval-data", "no.parquet"], "no.parquet does not exist; check the path."),
        (["train", "--media-root", "no"], "--media-root no is not a folder."),
        (["train", "--model", "./no"], "./no does not exist; give the folder of a checkpoint, or a Hub id."),
        (["validate", "no.jsonl"], "no.jsonl does not exist; check the path."),
        (["train", "--audio-sec", "nan"], "must be 0 or more, got nan"),
    ],
)
def test_what_cannot_be_read_is_one_line(capsys, words, line):
    try:
        code = main([*words, *(["--model", str(small_checkpoint())] if words[0] == "ask" else [])])
    except SystemExit as stop:  # of the parser
        code = stop.code
    error = capsys.readouterr().err
    assert code == 2 and line in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "words", [["train", "--data"], ["validate"], ["ask", "--model", "a/b", "no.jsonl"], ["inspect"]]
)
def test_a_missing_file_costs_no_heavy_import(words):
    script = (
        "import sys, omnivinci_hf.cli as cli\n"
        f"assert cli.main({[*words, 'no.jsonl']!r}) == 2\n"
        "assert not {'torch', 'transformers', 'numpy', 'av'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and "no.jsonl" in done.stderr, done.stderr


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


def test_options_of_the_command_line_are_options_of_the_processor():
    _, commands = _build_parsers()
    parsed = {action.dest for name in ("ask", "inspect") for action in commands[name]._actions if action.option_strings}
    of_commands = {
        *("help", "more_questions", "model", "system", "max_new_tokens", "do_sample", "seed", "stream", "dtype"),
        *("device_map", "plot", "json"),
    }
    of_files = CALL_OPTIONS.keys() - TEXT_OPTIONS.keys() - {"video_metadata", "sampling_rate", "do_sample_frames"}
    of_text = {"return_tensors", "return_mm_token_type_ids", "return_attention_mask"}
    assert parsed - of_commands == of_files - of_text - {"allow_urls", "allow_redirects", "allow_private_addresses"}


def test_every_option_of_the_processor_is_read_and_checked(tmp_path):
    (tmp_path / "a.mp4").touch()
    words = ["--frame-times", "0.5,1", "--no-align-audio-start", "--video-audio-downmix", "sum", "--end-sec", "2"]
    arguments = parse_arguments(["inspect", str(tmp_path / "a.mp4"), *words])
    given = {name: value for name in CALL_OPTIONS if (value := getattr(arguments, name, None)) is not None}
    expected = {"frame_times": [0.5, 1.0], "align_audio_start": False, "video_audio_downmix": "sum", "end_sec": 2.0}
    assert given == expected


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--frame-times", "2,1"], "--frame-times: must be finite, not negative and ascending, got [2.0, 1.0]"),
        (["--frame-indices", "1,x"], "--frame-indices: invalid list of numbers value: '1,x'"),
        (["--still-threshold", "256"], "--still-threshold: must be at most 255, got 256.0"),
        (["--end-sec", "0"], "--end-sec: must be more than 0, got 0.0"),
        (["--video-audio-downmix", "max"], "--video-audio-downmix: invalid choice: 'max'"),
        (["--media-limits", "max_frames"], "--media-limits: invalid NAME=NUMBER value: 'max_frames'"),
    ],
)
def test_a_wrong_option_of_the_processor_is_told(words, complaint, capsys):
    with pytest.raises(SystemExit):
        parse_arguments(["inspect", __file__, *words])
    assert complaint in capsys.readouterr().err


def test_the_default_model_is_the_original_checkpoint():
    assert DEFAULT_MODEL == ORIGINAL
