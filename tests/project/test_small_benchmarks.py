"""The scripts about the small checkpoint, each on as little as it takes."""

import json
import runpy
import sys

import numpy as np
import pytest

from omnivinci_hf import OmniVinciForConditionalGeneration
from omnivinci_hf.world import FAMILIES
from omnivinci_hf.world.model import build_config, build_model, build_processor, build_tokenizer
from tests.support.paths import BENCHMARKS, ROOT


SCRIPTS = BENCHMARKS
CARDS = ROOT / "model_cards"


def save(folder, **options):
    tokenizer = build_tokenizer()
    config = build_config(tokenizer, **options)
    build_model(config).save_pretrained(folder)
    build_processor(config, tokenizer).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory):
    return save(tmp_path_factory.mktemp("untrained"))


def run(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(SCRIPTS / name), run_name="__main__")


def test_retrieval_with_and_without(monkeypatch, capsys, tmp_path, untrained):
    file, other = tmp_path / "retrieval.json", save(tmp_path / "other", omni_align_config=None)
    report = tmp_path / "results.md"
    options = ["--without", other, "--galleries", 2, "--fit", 8, "--json", file, "--report", report]
    run(monkeypatch, "small_retrieval.py", untrained, *options)
    assert capsys.readouterr().out.startswith("2 galleries of 16 clips, recall at one (chance 6.25%)")
    found = json.loads(file.read_text())["recall_at_1"]
    assert list(found) == [
        "trained with it: means",
        "trained with it: linear map",
        "trained with it: OmniAlignNet",
        "trained without it: means",
        "trained without it: linear map",
    ]
    for row in found.values():
        assert list(row) == ["sound to video", "video to sound"]
        assert all(
            np.shape(values) == (1, 2) and 0 <= np.min(values) <= np.max(values) <= 0.5 for values in row.values()
        )
    with pytest.raises(ValueError, match="was trained with OmniAlignNet"):
        run(monkeypatch, "small_retrieval.py", untrained, "--without", untrained)
    with pytest.raises(ValueError, match="was trained without OmniAlignNet"):
        run(monkeypatch, "small_retrieval.py", other)
    assert "| trained without it: means | " in report.read_text()


@pytest.mark.parametrize(
    ("script", "option", "value", "message"),
    [
        ("small_retrieval.py", "--galleries", 1, "--galleries must be at least 2"),
        ("small_retrieval.py", "--fit", 3, "--fit must be at least 4"),
        ("small_checkpoint.py", "--clips", 1, "--clips must be at least 2"),
        ("small_checkpoint.py", "--jobs", 0, "--jobs must be at least 1"),
    ],
)
def test_too_little_is_refused_at_once(monkeypatch, capsys, untrained, script, option, value, message):
    with pytest.raises(SystemExit):
        run(monkeypatch, script, untrained, option, value)
    assert message in capsys.readouterr().err


def test_a_linear_map_with_a_chosen_decay_finds_what_is_linear(monkeypatch, tmp_path):
    script = runpy.run_path(str(SCRIPTS / "small_retrieval.py"))
    rng = np.random.default_rng(0)
    weights, sounds = rng.normal(size=(32, 32)), rng.normal(size=(112, 32))
    pairs = [(sound @ weights + 3 * rng.normal(size=32), sound) for sound in sounds]
    decay = script["chosen_decay"](pairs[:48])
    assert 1 <= decay <= 100 and decay in script["DECAYS"]
    good, bad = (script["recalls"](script["fitted"](pairs[:48], value)(pairs[48:])) for value in (decay, 0.01))
    assert np.mean(good["sound to video"]) >= max(0.5, np.mean(bad["sound to video"]))


def test_still_tokens_are_counted(monkeypatch, tmp_path, untrained):
    file = tmp_path / "still.json"
    run(monkeypatch, "still_tokens.py", untrained, "--clips", 1, "--thresholds", 1, 200, "--json", file)
    none, low, high = json.loads(file.read_text())
    assert none["still_threshold"] is None and none["visual embeddings"] == 1
    assert 0 < high["visual embeddings"] < low["visual embeddings"] <= 1
    assert high["prompt tokens"] < none["prompt tokens"] == 1


@pytest.mark.slow
def test_ablation_trains_reports_and_repeats_nothing(monkeypatch, tmp_path, untrained):
    options = [
        *("--output", tmp_path, "--cards", tmp_path, "--seeds", 2, "--jobs", 2, "--tracks", 10, "--clips", 6),
        *("--alignment-steps", 1, "--audit", 60),
    ]
    (tmp_path / "ablation.md").write_text("# What comes out\n")
    own = [*options, "--joint-steps", 1]
    run(monkeypatch, "small_ablation.py", *own, "--arms", "TEG, CRTE")
    results = sorted(tmp_path.glob("*.json"))
    assert [path.stem for path in results] == ["TEG, CRTE 0", "TEG, CRTE 1"]
    times = [path.stat().st_mtime for path in results]
    both = [*own, "--arms", "concatenation", "TEG, CRTE"]
    script = run(monkeypatch, "small_ablation.py", *both)
    assert [path.stat().st_mtime for path in results] == times
    report = (tmp_path / "ablation.md").read_text()
    # five conditions, and two sweeps that CRTE is a point of
    assert report.count("| concatenation | 2 | ") == 5 and report.count("| TEG, CRTE | 2 | ") == 7
    assert "| TEG | " not in report and "| from text | " in report and " steps of alignment and 1 of joint" in report
    assert report.startswith("# What comes out\n")
    assert (tmp_path / "ablation.png").stat().st_size > 5000
    results = sorted(tmp_path.glob("*.json"))
    assert [path.stem for path in results] == ["TEG, CRTE 0", "TEG, CRTE 1", "concatenation 0", "concatenation 1"]
    result = json.loads(results[0].read_text())
    conditions = ["whole clips", "fewer frames", "text only", "picture shuffled", "sound shuffled"]
    assert list(result["scores"]) == conditions
    assert list(result["scores"]["whole clips"]) == list(FAMILIES) and result["settings"]["joint_steps"] == 1
    times = [path.stat().st_mtime for path in results]
    run(monkeypatch, "small_ablation.py", *both)
    assert [path.stat().st_mtime for path in results] == times
    # the encoders are the package's, and rest
    for name in ("TEG, CRTE 0", "concatenation 1"):
        model = OmniVinciForConditionalGeneration.from_pretrained(tmp_path / name, dtype="float32")
        assert script["digest"](model) == result["settings"]["encoders"]
    for others in (["--joint-steps", 2], ["--joint-steps", 1, "--encoders", untrained]):
        with pytest.raises(ValueError, match="is of a run with other settings"):
            run(monkeypatch, "small_ablation.py", *options, *others)
    for change, message in (
        ({"settings": {**result["settings"], "encoders": "others"}}, "holds runs of different settings"),
        ({"options": {"group_duration_sec": 3.0}}, "holds a run of 'TEG, CRTE', which is another arm now"),
    ):
        results[0].write_text(json.dumps({**result, **change}))
        with pytest.raises(ValueError, match=message):
            run(monkeypatch, "small_ablation.py", *options, "--report-only")


def test_the_report_is_of_the_runs_that_are_kept(monkeypatch, tmp_path):
    report = ["--output", SCRIPTS / "ablation_runs", "--report-only", "--cards", tmp_path, "--audit", 60]
    run(monkeypatch, "small_ablation.py", *report)
    made, card = (
        # what can be guessed is counted in fewer scenes here
        [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| from ")]
        for text in ((tmp_path / "ablation.md").read_text(), (CARDS / "ablation.md").read_text().split("begin -->")[1])
    )
    assert made == card and len(made) > 50


def test_a_report_of_nothing(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="holds no finished runs"):
        run(monkeypatch, "small_ablation.py", "--output", tmp_path, "--report-only")


@pytest.mark.slow
def test_grpo_trains_reports_and_repeats_nothing(monkeypatch, tmp_path):
    pytest.importorskip("trl")
    options = [
        *("--output", tmp_path, "--cards", tmp_path, "--seeds", 1, "--tracks", 12, "--clips", 4, "--prompts", 2),
        *("--steps", 4, "--half-steps", 4, "--half-training", 1, 1),
    ]
    (tmp_path / "grpo.md").write_text("# What comes out\n")
    arms = ["audio-visual", "video only", "half-trained"]
    run(monkeypatch, "small_grpo.py", *options, "--arms", *arms)
    results = sorted(tmp_path.glob("*.json"))
    assert [path.stem for path in results] == ["audio-visual 0", "cost", "half-trained 0", "video only 0"]
    times = [path.stat().st_mtime for path in results]
    result = json.loads(results[0].read_text())
    assert list(result["scores"]) == ["0", "1", "2", "4"] and list(result["scores"]["4"]) == list(FAMILIES)
    assert len(result["log"]["reward"]) == 4 and result["settings"]["prompts"] == 2
    run(monkeypatch, "small_grpo.py", *options, "--arms", *arms)
    assert [path.stat().st_mtime for path in results] == times
    report = (tmp_path / "grpo.md").read_text()
    assert report.startswith("# What comes out\n") and "the lowest seed of audio-visual" in report
    assert "| video only | 1 | " in report and "Repeated prompts cost " in report and "half-trained start" in report
    assert (tmp_path / "grpo.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="holds runs of other settings"):
        run(monkeypatch, "small_grpo.py", *options, "--noise", 0.5)
    results[0].write_text(json.dumps({**result, "settings": {}}))
    with pytest.raises(ValueError, match="holds runs of different settings"):
        run(monkeypatch, "small_grpo.py", *options, "--report-only")
    for path in results:
        path.unlink()
    with pytest.raises(ValueError, match="holds no finished runs"):
        run(monkeypatch, "small_grpo.py", *options, "--report-only")


def test_grpo_needs_a_few_steps(monkeypatch, tmp_path, capsys):
    pytest.importorskip("trl")
    with pytest.raises(SystemExit):
        run(monkeypatch, "small_grpo.py", "--output", tmp_path, "--steps", 3)
    assert "--steps and --half-steps must be at least 4" in capsys.readouterr().err
