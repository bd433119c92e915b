import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest

from omnivinci_hf import __version__
from omnivinci_hf.cli import main
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.world_scenes import write_plain_clip


# real files: Debian's packages opencv-doc and alsa-utils
REAL_VIDEO = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
REAL_SPEECH = Path("/usr/share/sounds/alsa/Front_Center.wav")
needs_real_files = pytest.mark.skipif(
    not (REAL_VIDEO.exists() and REAL_SPEECH.exists()), reason="needs Debian's opencv-doc and alsa-utils"
)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    return str(write_tiny_checkpoint(tmp_path_factory.mktemp("cli") / "tiny"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("cli") / "clip.mp4"
    write_plain_clip(path, duration=4)
    return str(path)


@pytest.fixture(scope="session")
def joined(tmp_path_factory):
    """The real video's first 8 s with the real speech as its sound, in one mp4."""
    path = tmp_path_factory.mktemp("cli") / "joined.mp4"
    with av.open(str(REAL_VIDEO)) as video, av.open(str(REAL_SPEECH)) as speech, av.open(str(path), "w") as out:
        picture, sound = video.streams.video[0], speech.streams.audio[0]
        new_picture = out.add_stream("mpeg4", rate=picture.average_rate)
        new_picture.width, new_picture.height, new_picture.pix_fmt = picture.width, picture.height, "yuv420p"
        new_sound = out.add_stream("aac", rate=sound.rate, layout="mono")
        for number, frame in zip(range(80), video.decode(picture), strict=False):
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = number, 1 / picture.average_rate
            out.mux(new_picture.encode(frame))
        out.mux(new_picture.encode())
        for frame in speech.decode(sound):
            frame.pts = None
            out.mux(new_sound.encode(frame))
        out.mux(new_sound.encode())
    return str(path)


def run(*argv, **options):
    command = [sys.executable, "-m", "omnivinci_hf", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def assert_one_line(errors, *words):
    assert errors.startswith("omnivinci-hf: ")
    assert errors.count("\n") == 1
    for word in words:
        assert word in errors


def test_version_and_help(capsys):
    for argv, words in (
        (["--version"], [f"omnivinci-hf {__version__}"]),
        (["--help"], ["ask", "inspect", "convert", "demo"]),
        (["ask", "--help"], ["[MEDIA ...] QUESTION", "nvidia/omnivinci", "--stream"]),
        (["convert", "--help"], ["SRC DST", "5GB"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in words)


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["ask", "missing.mp4", "What?"],
        ["inspect", __file__, "missing.mp4"],
        ["ask", "What?", "--model", "./nowhere"],
        ["convert", "./nowhere", "out"],
        ["doctor", "./nowhere"],
        ["sing"],
    ],
)
def test_what_ends_early_imports_nothing_heavy(argv):
    program = (
        "import sys; from omnivinci_hf.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "assert not {'torch', 'transformers', 'numpy', 'av', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["ask"], "required: QUESTION"),
        (["ask", "hi", "--num-frames", "0"], "must be at least 1, got 0"),
        (["ask", "hi", "--fps", "nan"], "must be a finite number, got nan"),
        (["demo", "--number", "-1"], "must be 0 to 99,999,899, got -1"),
        (["demo", "--number", "99999900"], "must be 0 to 99,999,899, got 99999900"),
        (["ask", "hi", "--fps", "x"], "invalid number value: 'x'"),
        (["inspect"], "required: MEDIA"),
        (["sing"], "invalid choice: 'sing'"),
        ([], "required: COMMAND"),
        (["ask", __file__], "the last argument is the question, but"),
    ],
)
def test_wrong_arguments_are_told(capsys, argv, message):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("\n") == 1


def test_answer_alone_goes_to_stdout_also_with_options_in_between(tiny, clip):
    result = run("ask", clip, "--model", tiny, "--max-new-tokens", "5", "--num-frames", "2", "What is it?")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("\n") == 1
    assert "look untrained" in result.stderr
    assert "Traceback" not in result.stderr


def test_question_without_media_and_stream_give_the_same_words(capsys, tiny):
    options = ["--model", tiny, "--max-new-tokens", "5", "--system", "Be brief."]
    assert main(["ask", "Who are you?", *options]) == 0
    answer = capsys.readouterr().out
    assert main(["ask", "Who are you?", *options, "--stream"]) == 0
    assert capsys.readouterr().out.strip() == answer.strip()


def test_several_questions_are_answered_as_each_alone(capsys, tiny, clip, monkeypatch):
    options = ["--model", tiny, "--max-new-tokens", "4", "--num-frames", "2", "--start-sec", "1", "--end-sec", "2.5"]
    alone = []
    for question in ("What?", "Where is it?"):
        assert main(["ask", clip, question, *options]) == 0
        alone.append(capsys.readouterr().out)
    assert main(["ask", clip, "What?", "--question", "Where is it?", *options]) == 0
    assert capsys.readouterr().out == f"What?\n{alone[0]}\nWhere is it?\n{alone[1]}"
    assert main(["ask", clip, "What?", "--question", "Where is it?", "--stream", *options]) == 2
    assert_one_line(capsys.readouterr().err, "--stream takes one question")


def test_seed_decides_a_drawn_answer(capsys, tiny):
    answers = []
    for seed in ("1", "1", "2"):
        assert main(["ask", "Hi", "--model", tiny, "--max-new-tokens", "8", "--do-sample", "--seed", seed]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != answers[2]
    assert main(["ask", "Hi", "--model", tiny, "--max-new-tokens", "1", "--seed", "1"]) == 0
    assert "--seed changes nothing without --do-sample" in capsys.readouterr().err


def test_trained_norms_are_not_called_untrained(tiny, tmp_path):
    import torch

    from omnivinci_hf import OmniVinciForConditionalGeneration
    from omnivinci_hf.cli.commands import is_untrained

    model = OmniVinciForConditionalGeneration.from_pretrained(tiny)
    assert is_untrained(model)
    with torch.no_grad():
        model.model.language_model.norm.weight[0] += 0.01
    assert not is_untrained(model)


def test_inspect_prints_the_table_or_json(capsys, clip, tiny):
    assert main(["inspect", clip, "--num-frames", "4"]) == 0
    shown = capsys.readouterr()
    assert "nothing was downloaded" in shown.out and "1024 video" in shown.out
    assert main(["inspect", clip, "--json", "--model", tiny, "--fps", "2", "--no-load-audio-from-video"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["layout"] == tiny
    assert [frame["time_sec"] for frame in facts["media"][0]["frames"]] == [i / 2 for i in range(8)]
    assert facts["media"][0]["sound"] is None


def test_inspect_loads_no_weights(capsys, clip, tiny, tmp_path):
    folder = tmp_path / "bare"
    subprocess.run(["cp", "-r", tiny, str(folder)], check=True)
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    assert main(["inspect", clip, "--model", str(folder)]) == 0


def test_plot_is_drawn_or_the_package_named(capsys, clip, tmp_path, monkeypatch):
    if __import__("importlib.util").util.find_spec("matplotlib"):
        assert main(["inspect", clip, "--plot", str(tmp_path / "plot.png")]) == 0
        assert (tmp_path / "plot.png").stat().st_size > 10_000
        assert "plot.png" not in capsys.readouterr().out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["inspect", clip, "--plot", str(tmp_path / "other.png")]) == 2
    assert_one_line(capsys.readouterr().err, "--plot needs matplotlib: pip install matplotlib")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.not_there", "none of matplotlib's"])
def test_plot_is_drawn_whatever_backend_the_environment_names(clip, tmp_path, backend):
    pytest.importorskip("matplotlib")
    plot = tmp_path / "plot.png"
    command = [sys.executable, "-m", "omnivinci_hf", "inspect", clip, "--num-frames", "2", "--plot", str(plot)]
    done = subprocess.run(command, env={**os.environ, "MPLBACKEND": backend}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, f"omnivinci-hf: drew {plot}\n")
    assert plot.stat().st_size > 10_000


def test_convert_writes_a_checkpoint_that_answers(capsys, tiny, tmp_path):
    out = tmp_path / "out"
    assert main(["convert", tiny, str(out), "--progress", "--dtype", "bfloat16"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "" and "Writing weights" in shown.err and str(out) in shown.err
    assert main(["convert", tiny, str(out)]) == 2
    assert_one_line(capsys.readouterr().err, "is not empty")
    assert main(["convert", tiny, str(out), "--overwrite", "--max-shard-size", "300KB"]) == 0
    assert "Writing weights" not in capsys.readouterr().err
    assert main(["ask", "Hi", "--model", str(out), "--max-new-tokens", "3"]) == 0


def test_convert_pushes_when_asked(monkeypatch, capsys, tiny, tmp_path):
    import omnivinci_hf.cli.commands as commands

    monkeypatch.setattr(
        commands, "push_checkpoint", lambda folder, repo_id, source: f"https://hub/{repo_id} of {source}"
    )
    assert main(["convert", tiny, str(tmp_path / "out"), "--push-to-hub", "me/it"]) == 0
    assert f"https://hub/me/it of {tiny}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["inspect", "missing.mp4"], ["missing.mp4", "does not exist"]),
        (["inspect", __file__], ["test_cli.py", "cannot be decoded"]),
        (["inspect", "https://example.org/a.mp4"], ["URLs are not fetched"]),
        (["ask", "missing.mp4", "What?", "--model", "nowhere/at/all"], ["missing.mp4"]),
        (["ask", "What?", "--model", "nowhere/at/all"], ["nowhere/at/all does not exist"]),
        (["ask", "What?", "--model", os.path.dirname(__file__)], ["holds no checkpoint"]),
        (["ask", "What?", "--device-map", "cuda:99"], ["--device-map cuda:99:"]),
        (["ask", "What?", "--device-map", "moon"], ["--device-map moon:"]),
        (["convert", os.path.dirname(__file__), "out"], ["holds no checkpoint"]),
        (["demo", "--keep", os.path.dirname(__file__)], ["is not an empty folder"]),
    ],
)
def test_bad_input_is_one_line_and_code_2(capsys, argv, words):
    assert main(argv) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert_one_line(shown.err, *words)


def test_unknown_model_is_one_line(clip):
    result = run("ask", clip, "What?", "--model", "nobody/nothing", env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert (result.returncode, result.stdout) == (2, "")
    assert_one_line(result.stderr)


def test_damaged_weights_are_one_line(capsys, tiny, tmp_path):
    folder = tmp_path / "damaged"
    subprocess.run(["cp", "-r", tiny, str(folder)], check=True)
    (folder / "llm" / "model.safetensors").write_bytes(b"nonsense")
    assert main(["convert", str(folder), str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("omnivinci-hf: ")
    assert not (tmp_path / "out").exists()


def test_errors_nobody_foresaw_keep_their_traceback(monkeypatch, clip):
    import omnivinci_hf.cli.commands as commands

    def fail(*args, **kwargs):
        raise RuntimeError("a bug")

    monkeypatch.setattr(commands, "inspect_media", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["inspect", clip])


def test_interrupt_and_messages_of_several_lines(monkeypatch, capsys, clip):
    import omnivinci_hf.cli.commands as commands

    for error, code, line in (
        (KeyboardInterrupt(), 130, ""),
        (ValueError("one\n  two"), 2, "omnivinci-hf: one two\n"),
        (OSError(), 2, "omnivinci-hf: OSError\n"),
    ):

        def fail(*args, error=error, **kwargs):
            raise error

        monkeypatch.setattr(commands, "inspect_media", fail)
        assert main(["inspect", clip]) == code
        assert capsys.readouterr().err == line


def test_reader_that_goes_away_is_no_error(clip):
    command = f"{sys.executable} -m omnivinci_hf inspect {clip} --json; echo code $? >&2"
    result = subprocess.run(["bash", "-c", f"({command}) | true"], capture_output=True, text=True, timeout=300)
    assert result.stderr == "code 141\n"


def test_demo_keeps_its_clip(capsys, tmp_path):
    assert main(["demo", "--number", "2", "--keep", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip().endswith(f"The clip is in {tmp_path}.")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@needs_real_files
def test_real_video_and_real_speech(capsys, tiny, joined):
    assert main(["inspect", joined, str(REAL_VIDEO), str(REAL_SPEECH), "--num-frames", "8", "--json"]) == 0
    both, video, speech = json.loads(capsys.readouterr().out)["media"]
    assert (both["width"], both["height"], both["total_frames"]) == (768, 576, 80)
    assert (video["kind"], video["total_frames"], video["sound"]) == ("video", 795, None)
    assert video["duration_sec"] == pytest.approx(79.5, abs=0.1)
    assert (speech["kind"], speech["tokens"]["audio"]) == ("audio", 750)
    assert speech["sound"]["duration_sec"] == pytest.approx(1.43, abs=0.01)
    # one group of the whole 8 s; its sound is heard as long as it lasts, at 25 embeddings a second
    (group,) = both["groups"]
    assert (group["num_video_embeds"], group["num_audio_embeds"]) == (8 * 256, 37)
    for media in ([joined], [str(REAL_VIDEO)], [str(REAL_SPEECH)], [joined, str(REAL_SPEECH)]):
        assert main(["ask", *media, "What is said?", "--model", tiny, "--max-new-tokens", "3"]) == 0
