"""The configuration of the engine says what is wrong with it, by the key as the user wrote it."""

import copy
import os

import pytest

from omnivinci_hf.cli.arguments import ENGINE_STAGES
from omnivinci_hf.engine import load_config
from omnivinci_hf.engine.config import STAGES, OpenAIBackend
from tests.support.engine_files import settings, write_settings


URL = "http://127.0.0.1:1/v1"


def changed(**keys):
    """The configuration with changes of keys such as `backends__server__urls`; None deletes one."""
    values = copy.deepcopy(settings(URL))
    for name, value in keys.items():
        *folders, last = name.split("__")
        place = values
        for folder in folders:
            place = place[folder]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return values


def test_a_configuration_is_typed_data(tmp_path):
    config = load_config(write_settings(tmp_path, changed(segments={"length_sec": 30})))
    backend = config.backends["server"]
    assert isinstance(backend, OpenAIBackend) and backend.urls == [URL] and backend.price.completion == 10.0
    assert config.segments.length_sec == 30 and config.train.captions and config.folder == tmp_path
    assert config.path("out") == tmp_path / "out"


def test_a_version_may_be_a_number(tmp_path):
    config = load_config(write_settings(tmp_path, changed(backends__server__version=2)))
    assert config.backends["server"].version == "2"


def test_the_name_of_a_backend_may_have_a_dot(tmp_path):
    values = changed()
    values["backends"]["qwen2.5"] = values["backends"]["server"]
    assert load_config(write_settings(tmp_path, values)).backends["qwen2.5"].urls == [URL]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"medai": "x"}, r"The configuration has no option \['medai'\] \(did you mean media\?\)"),
        ({"vision__promt": "x"}, r"`vision` has no option \['promt'\] \(did you mean prompt\?\)"),
        ({"backends__server__url": "x"}, r"`backends.server` has no option \['url'\] \(did you mean urls\?\)"),
        ({"backends__server__price": {"prompt": 1}}, r"`backends.server.price` lacks \['completion'\]"),
        ({"vision__backend": "sever"}, r"`backends` \(which `vision.backend` names\) has no option \['sever'\]"),
        ({"omni": None}, r"lacks \['omni'\]"),
        ({"backends": {}}, "must be a mapping with one backend at least"),
        ({"backends__server__kind": "opneai"}, "`backends.server.kind` must be one of openai, transformers, python"),
        ({"backends__server__video": "gif"}, "`backends.server.video` must be one of image_url, video_url, got 'gif'"),
        ({"backends__server__audio": "mp3"}, "`backends.server.audio` must be one of input_audio, audio_url"),
        ({"backends__server__urls": "127.0.0.1"}, "`backends.server.urls` must begin with http"),
        ({"backends__server__urls": []}, "`backends.server.urls` must be a string or a list of strings"),
        ({"backends__server__parameters": [1]}, "`backends.server.parameters` must be a mapping"),
        ({"backends__server__parameters": {"stream": True}}, r"cannot have \['stream'\], which the engine sets"),
        ({"backends__server__api_key_env": "NO_SUCH_KEY"}, "environment variable NO_SUCH_KEY, which is not set"),
        ({"backends__server__concurrency": 0}, "`backends.server.concurrency` is 0"),
        ({"backends__server__retries": -1}, "`backends.server.retries` must be 0 or more"),
        ({"backends__server__timeout_sec": "long"}, "`backends.server.timeout_sec` must be a number, got 'long'"),
        ({"backends__mine": {"kind": "python", "function": "module"}}, "must be \"module:name\", got 'module'"),
        ({"qa__questions": 1.5}, "`qa.questions` must be a whole number, got 1.5"),
        ({"qa__questions": True}, "`qa.questions` must be a whole number, got True"),
        ({"filtered__agreement": "judge"}, "`filtered.agreement` must be one of exact, model, got 'judge'"),
        ({"filtered__words_alone": "yes"}, "`filtered.words_alone` must be true or false, got 'yes'"),
        ({"segments": {"length_sec": 0}}, "`segments.length_sec` is 0"),
        ({"segments": {"length_sec": 1}}, r"`segments.min_sec` \(2.0\) is more than `segments.length_sec` \(1\)"),
        ({"output": " "}, "`output` must name a folder"),
        ({"vision": "server"}, "`vision` must be a mapping, got 'server'"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(tmp_path, changes, message):
    with pytest.raises(ValueError, match=rf"engine.yaml: .*{message}"):
        load_config(write_settings(tmp_path, changed(**changes)))


def test_broken_yaml_is_told(tmp_path):
    (tmp_path / "engine.yaml").write_text("media: [", encoding="utf-8")
    with pytest.raises(ValueError, match="engine.yaml is no YAML"):
        load_config(tmp_path / "engine.yaml")


def test_a_key_is_read_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "secret")
    config = load_config(write_settings(tmp_path, changed(backends__server__api_key_env="SOME_KEY")))
    assert "secret" not in repr(config) and os.environ[config.backends["server"].api_key_env]


def test_media_are_paths_and_patterns_each_once(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.mp4", "a.mp4", "c.txt", "deep/d.mp4"):
        (tmp_path / name).touch()
    config = load_config(write_settings(tmp_path, changed(media=["b.mp4", "*.mp4"])))
    assert [file.name for file in config.media_files()] == ["b.mp4", "a.mp4"]
    config = load_config(write_settings(tmp_path, changed(media=["**/*.mp4"])))
    assert [file.name for file in config.media_files()] == ["a.mp4", "b.mp4", "d.mp4"]
    config = load_config(write_settings(tmp_path, changed(media=["*.mov"])))
    with pytest.raises(FileNotFoundError, match=r"\*.mov finds no file"):
        config.media_files()


def test_the_command_line_has_the_stages_of_the_engine():
    assert ENGINE_STAGES == STAGES
