import json

import pytest

from omnivinci_hf.original_layout.config import map_original_config, map_original_processor_options
from omnivinci_hf.original_layout.findings import LEVELS, Findings, logger
from omnivinci_hf.original_layout.keys import ASSUMED_VALUES, FLAGS, ORIGINAL_DEFAULTS
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


def test_unknown_harmless_keys_are_unusual_and_named_in_a_warning(original, monkeypatch):
    warnings = []
    monkeypatch.setattr(logger, "warning_once", warnings.append)
    findings = findings_of({**original, "favourite_colour": "green"})
    assert keys(findings, "unusual") == {("", "favourite_colour")}
    assert set(warnings) == {"config.json has favourite_colour='green', which is not known here; it is ignored."}


def test_warnings_begin_with_the_checkpoint(original, folder, monkeypatch):
    warnings = []
    monkeypatch.setattr(logger, "warning_once", warnings.append)
    map_original_config({**original, "favourite_colour": "green"}, str(folder))
    assert warnings == [f"{folder}: config.json has favourite_colour='green', which is not known here; it is ignored."]


@pytest.mark.parametrize("key", ["token_keep_ratio", "video_downsample_ratio", "vision_tower_path", "eval_num_tiles"])
def test_a_name_like_that_of_an_option_of_training_does_not_hide_what_could_change_numbers(original, key):
    with pytest.raises(ValueError, match=f"{key}=2, which is not known here and could change numbers"):
        findings_of({**original, key: 2})


@pytest.mark.parametrize("key", ["unfreeze_mm_vision_tower", "tokenizer_name", "image_token_index", "eval_steps"])
def test_what_names_a_part_but_does_not_change_numbers_is_ignored(original, key):
    assert ("", key) in keys(findings_of({**original, key: 2}), "ignored")


@pytest.mark.parametrize("key", [*ORIGINAL_DEFAULTS, *ASSUMED_VALUES])
def test_each_key_that_is_absent_or_null_is_assumed(original, key):
    del original[key]
    if key == "dynamic_s2":
        original["image_aspect_ratio"] = "resize"
    assert ("", key) in keys(findings_of(original), "assumed")
    if key not in FLAGS:
        (sentence,) = {one.sentence for one in findings_of({**original, key: None}) if one.level == "assumed"}
        assert sentence.startswith(f"config.json has {key}=None; ")


def test_the_main_file_rules_over_the_type_of_the_audio_projector(original):
    original["sound_mm_projector_cfg"]["sound_mm_projector_type"] = "stale"
    assert ("sound_mm_projector", "sound_mm_projector_type") in keys(findings_of(original), "unusual")


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
