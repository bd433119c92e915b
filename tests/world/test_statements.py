import dataclasses

import numpy as np
import pytest

from omnivinci_hf.world import (
    SOUNDS,
    STATEMENTS,
    SoundEvent,
    SoundTrack,
    is_true,
    sample_scene,
    speech,
    waveform,
    with_statements,
)
from omnivinci_hf.world.statements import PAUSE_SEC, STATEMENT_SEC


SCENES = [with_statements(sample_scene(seed), seed, number=3) for seed in range(12)]
SPOKEN = [(scene, one) for scene in SCENES for one in scene.sound.statements]
needs_a_voice = pytest.mark.skipif(not speech.can_speak(), reason="needs espeak-ng")


def test_statements_are_true_or_false_of_one_visible_shape():
    assert len(SPOKEN) >= 8 and {is_true(one, scene.vision) for scene, one in SPOKEN} == {True, False}
    for scene, one in SPOKEN:
        colour, form = STATEMENTS[one.kind]
        (meant,) = [event for event in scene.vision.events if event.shape == form]
        assert meant.visible_at(one.onset_sec)
        assert is_true(one, scene.vision) == (meant.colour == colour)


def test_nothing_else_is_heard_during_a_statement():
    for scene in SCENES:
        events = [*scene.sound.events, *scene.sound.statements]
        for one in scene.sound.statements:
            for other in events:
                assert one is other or max(other.onset_sec - one.end_sec, one.onset_sec - other.end_sec) > 0
            assert one.end_sec <= scene.sound.duration_sec and one.length_sec == STATEMENT_SEC > PAUSE_SEC


def test_a_scene_is_otherwise_the_same():
    for seed, scene in enumerate(SCENES):
        silent = dataclasses.replace(scene, sound=dataclasses.replace(scene.sound, statements=()))
        assert silent == sample_scene(seed)


def test_clips_without_statements_are_what_they_were():
    # of the version before there were statements
    before = [0.01059, -0.22515, -0.00098, 0.02465, -0.00029, -0.01955]
    assert waveform(sample_scene(3).sound, 16000)[0, ::20000] == pytest.approx(before, abs=1e-5)


@needs_a_voice
def test_statements_are_heard():
    scene = next(scene for scene in SCENES if scene.sound.statements)
    silent = dataclasses.replace(scene.sound, statements=())
    difference = np.abs(waveform(scene.sound, 16000) - waveform(silent, 16000)).max(axis=0)
    heard = np.flatnonzero(difference > 0.05) / 16000
    first, last = scene.sound.statements[0], scene.sound.statements[-1]
    assert heard[0] == pytest.approx(first.onset_sec, abs=0.1) and heard[-1] == pytest.approx(last.end_sec, abs=0.2)


def test_what_is_no_statement_is_refused():
    with pytest.raises(ValueError, match="A statement is one of STATEMENTS, got 'bell'"):
        SoundTrack(5.0, 16000, (), statements=(SoundEvent("bell", 1.0, 0.5),))
    with pytest.raises(ValueError, match=r"Statements must be over by the end of the track \(5.0 s\)"):
        SoundTrack(5.0, 16000, (), statements=(SoundEvent("the star is red", 4.0, 1.5),))
    with pytest.raises(ValueError, match="Unknown sound 'the star is pink': .* and statements such as"):
        SoundEvent("the star is pink", 1.0, 1.0)
    assert not set(SOUNDS) & set(STATEMENTS)
