import json

import pytest

from omnivinci_hf.original_layout.config import map_original_config, map_original_processor_options
from omnivinci_hf.original_layout.findings import LEVELS, Findings
from omnivinci_hf.testing import write_tiny_checkpoint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("findings") / "checkpoint")


@pytest.fixture
def original(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def findings_of(original, name_or_path=None):
    findings = Findings()
    map_original_config(original, name_or_path, findings=findings)
    map_original_processor_options(original, findings)
    return findings


def keys(findings, level):
    return {(finding.component, finding.key) for finding in findings if finding.level == level}


def test_a_usual_checkpoint_has_nothing_unusual(original, folder):
    findings = findings_of(original, str(folder))
    assert {finding.level for finding in findings} == {"ignored"}
    assert all(finding.sentence and finding.level in LEVELS for finding in findings)


def test_absent_keys_are_assumed_with_their_values(original):
    del original["audio_hop_length"]
    (finding,) = [one for one in findings_of(original) if one.level == "assumed"]
    assert (finding.component, finding.key, finding.value) == ("", "audio_hop_length", 60)
    assert finding.sentence == "config.json has no audio_hop_length; as in the original code it is 60."


def test_training_keys_are_ignored(original):
    training = {"tune_vision_tower": True, "mm_projector_lr": 1e-5, "drop_path_rate": 0.1, "quantize_model": "true"}
    findings = findings_of({**original, **training})
    assert {("", key) for key in training} <= keys(findings, "ignored")


def test_unknown_harmless_keys_are_unusual_and_named_in_a_warning(original, caplog):
    findings = findings_of({**original, "favourite_colour": "green"})
    assert keys(findings, "unusual") == {("", "favourite_colour")}


def test_all_that_is_refused_is_there_although_it_is_an_error(original):
    findings = Findings()
    original["llm_cfg"]["dual_chunk_attention_config"] = {"chunk_size": 4096}
    with pytest.raises(
        ValueError, match="video_max_tiles=4 is not supported(.|\n)*has dual_chunk_attention_config="
    ) as error:
        map_original_config({**original, "video_max_tiles": 4}, findings=findings)
    assert keys(findings, "refused") == {("", "video_max_tiles"), ("llm", "dual_chunk_attention_config")}
    assert str(error.value).splitlines() == [one.sentence for one in findings if one.level == "refused"]


def test_each_finding_is_there_once(original):
    findings = Findings()
    for _ in range(2):
        map_original_config(original, findings=findings)
    assert len(findings) == len(set(map(repr, findings)))
