import io
import subprocess
import types
import wave

import numpy as np
import pytest

from omnivinci_hf.world import SOUNDS, SPOKEN, sample_scene, sample_sound, speech, vocabulary, waveform
from omnivinci_hf.world.synthesis import synthesize


def spoken_file(tone_sec, rate=22050):
    """A tone between two silences of 0.1 s, as a WAV file."""
    tone = 8000 * np.sin(2 * np.pi * 440 * np.arange(round(tone_sec * rate)) / rate)
    silence = np.zeros(round(0.1 * rate))
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.concatenate((silence, tone, silence)).astype("<i2").tobytes())
    return buffer.getvalue()


@pytest.fixture
def synthesizer(monkeypatch):
    """One that takes 0.4 s for a word at 180 words a minute."""
    commands = []

    def run(command, **kwargs):
        commands.append(command)
        words_per_minute = int(command[command.index("-s") + 1])
        return types.SimpleNamespace(stdout=spoken_file(0.4 * 180 / words_per_minute))

    monkeypatch.setattr(speech.shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "run", run)
    speech._spoken.cache_clear()
    yield commands
    speech._spoken.cache_clear()


def test_a_word_fills_its_length(synthesizer):
    samples = synthesize("three", 0.6, 0.5, 0, 16000)
    assert samples.shape == (9600,) and np.abs(samples).max() == pytest.approx(1)
    assert np.abs(samples[:800]).max() > 0.5 and np.abs(samples[-800:]).max() > 0.5
    assert [command[-1] for command in synthesizer] == ["three", "three"]
    assert [command[command.index("-s") + 1] for command in synthesizer] == ["180", "119"]


def test_words_are_sounds_like_others(synthesizer):
    track = sample_sound(0, 20.0, SOUNDS + SPOKEN)
    assert {event.kind for event in track.events} & set(SPOKEN)
    assert np.isfinite(waveform(track)).all()
    assert sample_scene(1, kinds=SPOKEN).sound.events[0].kind in SPOKEN
    assert set(vocabulary(SOUNDS + SPOKEN)) - set(vocabulary()) == set(SPOKEN)


def test_without_a_synthesizer_there_are_no_words(monkeypatch):
    monkeypatch.setattr(speech.shutil, "which", lambda name: None)
    speech._spoken.cache_clear()
    assert not speech.can_speak()
    with pytest.raises(ValueError, match="Speaking 'two' needs the program espeak-ng"):
        synthesize("two", 0.5, 0.5, 0, 16000)


def test_words_are_not_heard_unless_asked_for():
    assert not {event.kind for seed in range(50) for event in sample_sound(seed).events} & set(SPOKEN)


def test_too_few_kinds_are_refused():
    with pytest.raises(ValueError, match="give as many kinds at least, got 2"):
        sample_sound(0, kinds=("bell", "drum"))


@pytest.mark.skipif(not speech.can_speak(), reason="needs espeak-ng")
def test_the_synthesizer_speaks():
    one, two = (synthesize(word, 0.5, 0.5, 0, 16000) for word in ("one", "two"))
    assert np.abs(one - two).mean() > 0.05
    assert np.sqrt((one[-2400:] ** 2).mean()) > 0.01
