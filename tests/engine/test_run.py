"""The engine goes from clips to rows of training, stage by stage, on real clips and a server on loopback."""

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from chat_server import FAULTS, ChatServer
from filelock import FileLock

from omnivinci_hf.cli import main
from omnivinci_hf.engine import format_report, load_config, report, run_engine
from omnivinci_hf.engine.config import STAGES
from omnivinci_hf.engine.records import read_records
from omnivinci_hf.engine.run import Shard, run_in_order
from omnivinci_hf.training.data import load_rows
from omnivinci_hf.training.validation import Validation, validate_rows
from tests.support.engine_files import OUTCOMES, rule, settings, stage_of, write_clips, write_settings


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    write_clips(folder / "clips")
    return str(folder / "clips" / "*.mp4")


@pytest.fixture
def server():
    with ChatServer(rule) as server:
        yield server


def configure(folder, clips, url, **changes):
    return load_config(write_settings(folder, settings(url, media=clips, **changes)))


def run(config, **options):
    lines = []
    errors = run_engine(config, note=lines.append, **options)
    return errors, "\n".join(lines)


def records(folder, stage):
    return list(read_records(folder / "out" / f"{stage}.jsonl"))


def files(folder):
    return {stage: (folder / "out" / f"{stage}.jsonl").read_bytes() for stage in STAGES}


def test_every_stage_leaves_its_records(tmp_path, clips, server):
    assert run(configure(tmp_path, clips, server.url))[0] == 0
    vision, audio, omni = (records(tmp_path, stage) for stage in ("vision", "audio", "omni"))
    assert vision[0]["trace"] == "I look." and vision[0]["model"] == "stub" and len(vision[0]["prompt"]) == 24
    assert vision[0]["cost"] == pytest.approx(0.0002)
    assert audio[0]["speech"][0]["text"] == "the dog is a cat"
    assert [(one["source"], one["verdict"]) for one in omni[0]["sentences"]] == [
        ("both", "kept"),
        ("heard", "dropped"),
        ("both", "contradicts"),
        ("heard", "dropped"),  # not mentioned
    ]
    assert [one["reason"] for one in records(tmp_path, "filtered")] == OUTCOMES * 3
    rows = records(tmp_path, "train")
    answers = [row["messages"][1]["content"][0]["text"] for row in rows]
    assert answers == ["A dog runs and barks.", "It barks."] * 3


def test_rows_are_good_for_training(tmp_path, clips, server, capsys):
    run(configure(tmp_path, clips, server.url))
    counts = Validation()
    rows = load_rows(str(tmp_path / "out" / "train.jsonl"))
    assert not [bad for bad in validate_rows(rows, counts) if bad] and counts.num_rows == 6
    assert main(["validate", str(tmp_path / "out" / "train.jsonl")]) == 0


def test_traces_and_relative_paths_and_segments(tmp_path, clips, server):
    train = {"traces": True, "captions": False, "media_root": os.path.dirname(os.path.dirname(clips))}
    segments = {"length_sec": 2, "min_sec": 1}
    run(configure(tmp_path, clips, server.url, train=train, segments=segments))
    rows = records(tmp_path, "train")
    parts = [row["messages"][0]["content"][0] for row in rows]
    assert [(part["path"], part.get("start_sec"), part.get("end_sec")) for part in parts] == [
        ("clips/0.mp4", None, None),
        ("clips/1.mp4", 0, 2),
        ("clips/1.mp4", 2, 3),
        ("clips/2.mp4", 0, 2),
        ("clips/2.mp4", 2, 4),
    ]
    assert rows[0]["messages"][1]["content"][0]["text"] == "<think>Because of ['o0'].</think>\nIt barks."
    with pytest.raises(ValueError, match="`train.media_root`: .* does not lie in"):
        run(configure(tmp_path, clips, server.url, train={"media_root": str(tmp_path / "else")}))


def test_nothing_is_asked_twice_and_a_stage_may_be_the_last(tmp_path, clips, server):
    config = configure(tmp_path, clips, server.url)
    run(config, stage="vision", limit=2)
    assert len(server.requests) == 2 and not (tmp_path / "out" / "audio.jsonl").exists()
    run(config)
    assert len(server.answered()) == len(set(server.answered())) == 39
    before = files(tmp_path)
    assert "0 requests were sent" in run(config)[1]
    assert files(tmp_path) == before and len(server.requests) == 39


def test_a_changed_prompt_is_asked_anew_and_nothing_old_stays(tmp_path, clips, server):
    config = configure(tmp_path, clips, server.url)
    run(config)
    assert main(["engine", "prompts", str(tmp_path / "prompts")]) == 0
    with open(tmp_path / "prompts" / "vision.jinja", "a", encoding="utf-8") as file:
        file.write("\nBe brief.\n")
    changed = configure(tmp_path, clips, server.url, prompts="prompts")
    del server.requests[:]
    _, words = run(changed, stage="vision")
    assert [stage_of(seen.prompt) for seen in server.requests] == ["vision"] * 3
    assert "vision.jsonl changed, so the files of later stages were deleted" in words
    assert not (tmp_path / "out" / "train.jsonl").exists()
    run(changed)
    assert not {"audio", "speech"} & {stage_of(seen.prompt) for seen in server.requests}
    del server.requests[:]
    run(config)  # the old prompt's replies are still there
    assert not server.requests


def test_another_model_is_asked_anew(tmp_path, clips, server):
    run(configure(tmp_path, clips, server.url), stage="vision")
    values = settings(server.url, media=clips)
    values["backends"]["server"] |= {"version": "2", "concurrency": 1, "timeout_sec": 9}
    run(load_config(write_settings(tmp_path, values)), stage="vision")
    assert len(server.requests) == 6


def test_a_reply_in_no_form_is_asked_for_again_and_told_why(tmp_path, clips, server):
    server.rule = lambda body: rule(body) if "could not be used" in str(body) else "[oops"
    errors, _ = run(configure(tmp_path, clips, server.url), stage="vision")
    assert errors == 0 and len(server.requests) == 6
    assert "Your last reply could not be used: The reply holds no JSON list" in server.requests[-1].prompt
    assert records(tmp_path, "vision")[0]["cost"] == pytest.approx(0.0004)


def test_a_segment_that_fails_is_told_and_the_others_go_on(tmp_path, clips, server):
    server.rule = lambda body: "[oops" if "2.0 seconds" in str(body) else rule(body)
    config = configure(tmp_path, clips, server.url)
    errors, words = run(config)
    # of picture and audio
    assert errors == 2 and "2 records have an `error`" in words and "vision.jsonl: 3 records, 1 with an error" in words
    assert (
        "vision: 3 replies could not be used, the last for: The reply holds" in records(tmp_path, "vision")[0]["error"]
    )
    assert len(records(tmp_path, "omni")) == 2 and len(records(tmp_path, "train")) == 4
    assert report(config)["errors"] == {"vision": 1, "audio": 1}


def test_a_refused_request_is_asked_again_in_the_next_run(tmp_path, clips, server):
    config = configure(tmp_path, clips, server.url)
    server.status = 400, "no images"
    with pytest.raises(ValueError, match="'vision' failed for all of its first 3 items.*status 400: no images"):
        run(config)
    server.status = None
    assert run(config)[0] == 0


def test_media_that_cannot_be_used_are_told(tmp_path, clips, server):
    folder = tmp_path / "media"
    write_clips(folder, 1)
    (folder / "copy.mp4").write_bytes((folder / "0.mp4").read_bytes())
    (folder / "no.mp4").write_bytes(b"no")
    errors, _ = run(configure(tmp_path, str(folder / "*.mp4"), server.url), stage="segments")
    assert errors == 2
    assert [bool(one.get("error")) for one in records(tmp_path, "segments")] == [False, True, True]
    with pytest.raises(ValueError, match="Stage 'segments' failed for all"):
        run(configure(tmp_path, str(folder / "no.mp4"), server.url), stage="segments")


def test_a_limit_is_of_media_that_can_be_used(tmp_path, clips, server):
    (tmp_path / "0.mp4").write_bytes(b"no")
    config = configure(tmp_path, [str(tmp_path / "0.mp4"), clips], server.url)
    assert run(config, stage="segments", limit=2)[0] == 1
    assert [bool(one.get("error")) for one in records(tmp_path, "segments")] == [True, False, False]


def test_a_silent_video_has_no_audio_to_describe(tmp_path, server):
    from omnivinci_hf.engine.media import _mp4
    from omnivinci_hf.omnivinci.video_media_omnivinci import load_video

    write_clips(tmp_path / "clips", 1)
    clip = load_video(str(tmp_path / "clips" / "0.mp4"), num_frames=8)
    (tmp_path / "silent.mp4").write_bytes(_mp4(clip))
    run(configure(tmp_path, "silent.mp4", server.url), stage="audio")
    assert records(tmp_path, "audio")[0]["note"] == "There is no audio." and len(server.requests) == 1


def test_a_model_may_tell_whether_answers_agree(tmp_path, clips, server):
    values = settings(server.url, media=clips)
    values["filtered"] = {"backend": "server", "single_captions": False, "words_alone": False}
    run(load_config(write_settings(tmp_path, values)), limit=1)
    outcomes = [one["reason"] for one in records(tmp_path, "filtered")]
    assert outcomes == ["", "", "", "", "untraceable", "duplicate"]  # "a man" and "a dog" are said to agree
    assert sum(stage_of(seen.prompt) == "agree" for seen in server.requests) == 1


def test_an_estimate_sends_nothing_and_says_what_it_would(tmp_path, clips, server):
    config = configure(tmp_path, clips, server.url)
    _, words = run(config, dry_run=True)
    assert not server.requests and not (tmp_path / "out").exists()
    counted = {line.split()[0]: line.split()[1] for line in words.splitlines()[1:-2]}
    assert counted == {"vision": "3", "audio": "3", "speech": "3", "omni": "~3", "qa": "~3", "answer": "~72"}
    assert "The cost may be" in words and "Nothing was sent" in words
    run(config, stage="qa")
    _, words = run(config, dry_run=True)
    # four questions in four views of three segments, but the words alone once
    assert words.splitlines()[1].split()[:2] == ["answer", "40"] and len(server.requests) == 15
    run(config)
    assert run(config, dry_run=True)[1] == "Every reply is there: a run sends nothing."


def test_an_estimate_without_prices_says_so(tmp_path, clips, server):
    values = settings(server.url, media=clips)
    del values["backends"]["server"]["price"]
    words = run(load_config(write_settings(tmp_path, values)), dry_run=True)[1]
    assert "no price" in words and "beside what has no price" in words


def test_the_report_counts_what_there_is(tmp_path, clips, server):
    config = configure(tmp_path, clips, server.url)
    with pytest.raises(FileNotFoundError, match="start `omnivinci-hf engine run` first"):
        report(config)
    run(config)
    facts = report(config)
    assert facts["verdicts"] == {"kept": 3, "dropped": 6, "contradicts": 3} and facts["questions"]["kept"] == 3
    assert facts["replies"]["answer"]["replies"] == 24
    text = format_report(facts)
    assert "answered from picture alone: 3" in text and text.splitlines()[-1].split()[:2] == ["total", "39"]


def check_shards(folder, file, one):
    rows = [row for file in sorted(folder.glob("out/shard-*/train.jsonl")) for row in read_records(file)]
    assert sorted(map(json.dumps, rows)) == sorted(map(json.dumps, records(one, "train")))
    assert report(load_config(file))["stages"]["train"] == 6
    assert len(load_rows([str(file) for file in sorted(folder.glob("out/shard-*/train.jsonl"))])) == 6


def test_shards_make_together_what_one_run_makes(tmp_path, clips, server):
    (tmp_path / "one").mkdir()
    run(configure(tmp_path / "one", clips, server.url))
    config = configure(tmp_path, clips, server.url)
    for index in range(2):
        run(config, shard=Shard(index, 2))
    check_shards(tmp_path, tmp_path / "engine.yaml", tmp_path / "one")


@pytest.mark.slow
def test_two_processes_make_together_what_one_makes(tmp_path, clips, server):
    (tmp_path / "one").mkdir()
    run(configure(tmp_path / "one", clips, server.url))
    file = write_settings(tmp_path, settings(server.url, media=clips))
    command = [sys.executable, "-m", "omnivinci_hf", "engine", "run", str(file), "--shard"]
    processes = [subprocess.Popen([*command, f"{index}/2"], stderr=subprocess.PIPE, text=True) for index in range(2)]
    assert [process.communicate(timeout=300)[1].count("train.jsonl") for process in processes] == [1, 1]
    check_shards(tmp_path, file, tmp_path / "one")


def test_a_shard_without_media_is_told(tmp_path, clips, server):
    with pytest.raises(ValueError, match="Shard 3/4 is empty: there are only 3 media"):
        run(configure(tmp_path, clips, server.url), shard=Shard(3, 4))
    with pytest.raises(ValueError, match="must be 0/N to N-1/N, got 2/2"):
        Shard(2, 2)


def test_two_processes_do_not_write_to_one_folder(tmp_path, clips, server):
    config = configure(tmp_path, clips, server.url)
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"), pytest.raises(ValueError, match="Another process writes to"):
        run(config)


def test_an_unknown_stage_is_told(tmp_path, clips, server):
    with pytest.raises(ValueError, match=r"has no option \['visoin'\] \(did you mean vision\?\)"):
        run(configure(tmp_path, clips, server.url), stage="visoin")


def test_requests_run_side_by_side_but_no_more_than_allowed():
    running, most = [], []

    def make(number):
        running.append(number)
        most.append(len(running))
        time.sleep(0.01)
        running.remove(number)
        return number

    assert list(run_in_order(make, range(30), 4)) == list(range(30))
    assert 1 < max(most) <= 4


# -- Ends


def engine_process(file):
    command = [sys.executable, "-m", "omnivinci_hf", "engine", "run", str(file)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kill_after(process, server, number):
    """Kills a process when the server has seen so many requests; tells whether it ran until then."""
    while process.poll() is None and len(server.requests) < number:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


def logged(folder):
    file = folder / "out" / "replies.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def check_kills(folder, clips, num_kills, fault_rate):
    """Kills the engine again and again, lets it end, and compares with a run that nothing disturbed."""
    (folder / "calm").mkdir()
    with ChatServer(rule) as server:
        run(configure(folder / "calm", clips, server.url))
        num_requests = len(server.requests)
    values = settings("", media=clips)
    num_lost, moments = 0, random.Random(0)
    with ChatServer(rule, fault_rate=fault_rate, delay_sec=0.02) as server:
        values["backends"]["server"] |= {"urls": server.url, "timeout_sec": 2, "concurrency": 2, "retries": 20}
        file = write_settings(folder, values)
        for kill in range(num_kills):
            assert kill_after(engine_process(file), server, len(server.requests) + moments.randint(1, 4))
            num_lost += 2  # replies that were on their way
            if kill % 2 and logged(folder):  # as if the machine had lost its power
                log = folder / "out" / "replies.jsonl"
                log.write_bytes(log.read_bytes()[:-7])
                num_lost += 1
        process = engine_process(file)
        assert process.communicate(timeout=300)[1].count("records") == len(STAGES) and process.returncode == 0
        answered, cut = server.answered(), [seen for seen in server.requests if seen.fault == "cut JSON"]
    assert set(FAULTS) <= {seen.fault for seen in server.requests}
    assert files(folder) == files(folder / "calm")
    assert len(set(answered)) == num_requests
    assert len(answered) <= num_requests + num_lost, f"{len(answered)} answers, {len(cut)} cut"
    assert logged(folder) == num_requests


def test_an_engine_that_was_stopped_goes_on_where_it_was(tmp_path, clips):
    (tmp_path / "calm").mkdir()
    with ChatServer(rule) as server:
        run(configure(tmp_path / "calm", clips, server.url))
    with ChatServer(rule) as server:
        config = configure(tmp_path, clips, server.url)
        for number in (4, 9, 12):
            server.faults = iter(["", "429", *[""] * number, *["401"] * 100])
            with pytest.raises(ValueError, match="status 401"):
                run(config)
        server.faults = None
        run(config)
        assert len(server.answered()) == len(set(server.answered())) == 39
    assert files(tmp_path) == files(tmp_path / "calm")


@pytest.mark.slow
def test_an_engine_that_is_killed_ten_times_under_faults_makes_the_same(tmp_path, clips):
    check_kills(tmp_path, clips, num_kills=10, fault_rate=0.2)


# -- The command line


def test_the_command_line_runs_and_reports(tmp_path, clips, server, capsys):
    file = str(write_settings(tmp_path, copy.deepcopy(settings(server.url, media=clips))))
    assert main(["engine", "run", file, "--dry-run"]) == 0
    assert "Nothing was sent" in capsys.readouterr().out
    assert main(["engine", "run", file, "--stage", "omni", "--limit", "1"]) == 0
    assert "omni.jsonl: 1 records" in capsys.readouterr().err
    assert main(["engine", "report", file, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["stages"]["omni"] == 1
    assert main(["engine", "report", file]) == 0
    assert "verdicts contradicts: 1" in capsys.readouterr().out


def test_prompts_are_written_once(tmp_path, capsys):
    assert main(["engine", "prompts", str(tmp_path / "prompts")]) == 0
    assert (tmp_path / "prompts" / "vision.jinja").exists() and "name it as `prompts`" in capsys.readouterr().out
    assert main(["engine", "prompts", str(tmp_path / "prompts")]) == 2
    assert "has agree.jinja" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", __file__, "--limit", "3"], "--limit belongs to `run`, not to `report`"),
        (["run", __file__, "--json"], "--json belongs to `report`, not to `run`"),
        (["run", __file__, "--shard", "2/2"], "must be 0/N to N-1/N, got 2/2"),
        (["run", __file__, "--stage", "visoin"], "invalid choice: 'visoin'"),
        (["sing", __file__], "invalid choice: 'sing'"),
    ],
)
def test_wrong_options_of_the_command_are_told(capsys, words, message):
    with pytest.raises(SystemExit) as ended:
        main(["engine", *words])
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and message in shown and shown.count("\n") == 1


def test_a_missing_configuration_and_a_server_that_is_down_are_one_line(tmp_path, clips, capsys):
    assert main(["engine", "run", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml is no file; give the configuration" in capsys.readouterr().err
    values = settings("http://127.0.0.1:9/v1", media=clips)
    values["backends"]["server"]["retries"] = 0
    assert main(["engine", "run", str(write_settings(tmp_path, values))]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("omnivinci-hf: Backend 'server', http://127.0.0.1:9/v1: ") and "what came is kept" in last
