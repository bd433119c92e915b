"""The benchmark of the model's speed works, and the model costs hardly more than its parts."""

import time

import model_speed
import pytest
import speed_tables
import torch
from measuring import WaitCounter, take_turns, tensor_peak, write_section
from speed_models import Parts, build_config, build_model, original_cost, prompt


MACHINE = speed_tables.Machine("cpu", torch.float32, 1e11, 1e10)


@pytest.fixture(scope="module")
def tiny():
    model = build_model(build_config("tiny"), "cpu", torch.float32)
    return model, Parts(model), prompt(model.config, 16, 30.0, "cpu")


def test_a_prefill_costs_hardly_more_than_its_parts(tiny):
    # at this size nearly all is overhead; in CPU time, for the machine may be busy
    ratios = []
    for _ in range(3):
        ratios.append(speed_tables.glue(*tiny, repeats=5, machine=MACHINE, clock=time.process_time)["ratio"])
        if ratios[-1] < 1.5:
            return
    raise AssertionError(f"whole / parts: {ratios}")


def test_a_prefill_waits_once_more_than_its_parts_and_runs_few_operators_more(tiny):
    whole, parts = speed_tables.wait_rows(*tiny, "cpu")
    assert whole[:3] == ["whole", 1, parts[2]] and parts[1] == 0
    assert parts[-1] < whole[-1] < parts[-1] + 700
    longer = prompt(tiny[0].config, 16, 30.0, "cpu", words=500)
    assert speed_tables.wait_rows(*tiny[:2], longer, "cpu") == [whole, parts]


def test_the_parts_compute_what_the_model_computes(tiny):
    model, parts, inputs = tiny
    with torch.inference_mode():
        embeds = speed_tables.embed(model, inputs)
        expected = model(**inputs).logits
        assert torch.equal(parts.text(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits, expected)
    assert not any(tensor.is_meta for tensor in (*parts.parameters(), *parts.buffers()))


def test_some_tables_are_printed_only(monkeypatch, capsys):
    monkeypatch.setattr(speed_tables, "roofline", lambda device, dtype: (1e11, 1e10))
    before = (model_speed.FOLDER / "RESULTS.md").read_text()
    model_speed.main(["--size", "tiny", "--repeats", "1", "--tables", "glue", "decode", "quantized"])
    printed = capsys.readouterr().out
    assert "### 1. Glue" in printed and "| Qwen2 |" in printed and "### 2. Decoding" in printed
    assert "### 5. Quantized\n\nNot measured: needs a GPU." in printed and "### 6" not in printed
    assert (model_speed.FOLDER / "RESULTS.md").read_text() == before


def test_a_whole_run_is_written_with_the_gpu_as_not_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(speed_tables, "roofline", lambda device, dtype: (1e11, 1e10))
    monkeypatch.setattr(model_speed, "TITLES", {"memory": "Memory", "long": "Long input", "quantized": "Quantized"})
    names = ("128 frames", "1,024 frames", "2 min of sound", "60 min of sound")
    memory = [{"what": name, "peak": peak << 20} for name, peak in zip(names, (50, 55, 40, 50), strict=True)]
    cost = {"length": 100, "encode": 1.0, "language": 3.0, "peak": 9 << 20, "kept": 4 << 20}
    long = [{"kind": kind, "amount": amount, **cost} for kind in ("frames", "sound") for amount in (16, 1024)]
    monkeypatch.setattr(model_speed.Report, "apart", lambda self, task: {"memory": memory, "long": long}[task])
    results = tmp_path / "RESULTS.md"
    results.write_text("# Results\n")
    for _ in range(2):
        model_speed.main(["--results", str(results), "--frames", "4"])
    written = results.read_text()
    assert written.count("## Speed and memory of the model: `python benchmarks/model_speed.py --frames 4` (") == 1
    assert "Bounds met: 1 of 2." in written
    assert (
        "1,024 frames / 128: **1.10** (at most 1.15: met); 60 min / 2 min: **1.25** (at most 1.15: MISSED)" in written
    )
    assert "| 1,024 frames | 100 | 1.00 | 3.00 | 9 | 4 |" in written and "takes 75% of the time" in written
    assert "| 128 frames | 32,768 | 100% | 1.88 |" in written
    assert written.count("Not measured: there was no GPU.") == 1
    assert ("![cost of long inputs](long_input_cpu.png)" in written) == (tmp_path / "long_input_cpu.png").exists()


def test_memory_and_cost_are_measured():
    rows = speed_tables.memory_rows("tiny", "cpu", torch.float32, frames=(8, 16), minutes=(1, 2))
    names = ["8 frames", "16 frames", "1 min of sound", "2 min of sound"]
    assert [row["what"] for row in rows] == [*names, "8 frames, all at once", "1 min of sound, all at once"]
    rows = speed_tables.long_rows("tiny", "cpu", torch.float32, frames=(2, 4), seconds_of_sound=(10.0, 60.0))
    # 2 x 2 patches are one embedding, of which 1 x 1 is left; 32 words
    assert [row["length"] for row in rows] == [2 + 32, 4 + 32, 75 + 32, 150 + 32]
    assert all(row["encode"] > 0 and row["language"] > 0 and row["kept"] > 0 for row in rows)


def test_two_questions_about_a_clip_are_timed():
    found = speed_tables.questions_seconds(8, "cpu", repeats=1)
    assert list(found) == ["pipeline", "session"] and all(0 < second < first for first, second in found.values())


@pytest.mark.slow
def test_quantized_models_are_measured():
    pytest.importorskip("bitsandbytes")
    rows = speed_tables.quantized_rows("slim", 1, 30.0, "cpu")
    assert [row[0] for row in rows] == ["bfloat16", "int8", "nf4"]
    assert all(float(value) > 0 for row in rows for value in row[2:4])


def test_the_original_sizes_by_formula():
    length, cache, flops = original_cost(128, 0.0)
    assert length == 128 * 256  # the whole context of Qwen2.5-7B
    assert cache == pytest.approx(2 * 2 * 32768 * 28 * 4 * 128 / 1e9)
    # 26 of 27 layers of 15.2 M for 128 * 1024 patches, 28 of 233 M for the words, and attention
    towers = 2 * 128 * 1024 * 26 * (4 * 1152**2 + 2 * 1152 * 4304) + 4 * 128 * 1024**2 * 1152 * 26
    words = 2 * 32768 * 28 * (2 * 3584**2 + 2 * 3584 * 512 + 3 * 3584 * 18944) + 2 * 32768**2 * 3584 * 28
    assert flops == pytest.approx((towers + words) / 1e12, rel=0.01)


# -- what is shared ----------------------------------------------------------------------------------------------------


def test_sides_take_turns():
    calls, values = [], iter(range(100))
    medians = take_turns({name: lambda name=name: calls.append(name) or next(values) for name in "ab"}, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert medians == {"a": 5, "b": 4}


def test_calls_that_wait_are_counted_by_package():
    numbers = torch.arange(4)
    with WaitCounter() as waits:
        bool(numbers.any())
        numbers.tolist()
        numbers[numbers > 1]
        numbers[1:] + 1
        numbers.sum()
    assert waits.counts == {"other": 3}


def test_the_peak_of_tensors():
    def run():
        first = torch.empty(1000, dtype=torch.uint8)
        del first
        return torch.empty(700, dtype=torch.uint8).clone()

    assert tensor_peak(run) == 1400


def test_a_section_is_put_in_place_of_the_one_before(tmp_path):
    file = tmp_path / "results.md"
    file.write_text("# Title\n\ntext\n")
    write_section(file, "a", "one")
    write_section(file, "b", "two\n")
    write_section(file, "a", "three")
    assert file.read_text() == (
        "# Title\n\ntext\n\n<!-- a: begin -->\nthree\n<!-- a: end -->\n\n<!-- b: begin -->\ntwo\n<!-- b: end -->\n"
    )
