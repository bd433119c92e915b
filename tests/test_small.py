import json

import numpy as np
import pytest
import torch

from omnivinci_hf import OmniVinciForConditionalGeneration, OmniVinciProcessor
from omnivinci_hf.small.model import build_config, build_model, build_processor, build_tokenizer
from omnivinci_hf.small.towers import SILENCE, frame_batches, window_batches
from omnivinci_hf.small.tracks import BLOCK_ROWS, DURATIONS, PairedClips, TrackEncoder, load_tracks, row
from omnivinci_hf.small.train import Plan, train_small
from omnivinci_hf.training import OmniVinciDataCollator
from omnivinci_hf.world import vocabulary


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> TrackEncoder:
    tokenizer = build_tokenizer()
    # two tracks of the shortest length
    seeds = [0, len(DURATIONS), 2 * len(DURATIONS)]
    tracks = load_tracks(seeds, cache=tmp_path_factory.mktemp("tracks"))
    return TrackEncoder(build_processor(build_config(tokenizer), tokenizer), tracks)


def test_every_word_of_the_world_is_a_token():
    tokenizer = build_tokenizer()
    for word in vocabulary():
        assert tokenizer.tokenize(word) == [word]
    text = "List the shapes and sounds.\nred circle 1, blue square 4"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids).split() == text.split()


def test_fits_into_eight_megabytes():
    model = build_model(build_config(build_tokenizer()))
    assert sum(parameter.numel() for parameter in model.parameters()) * 2 < 5_000_000


def test_tracks_are_read_from_the_cache(tmp_path):
    (first,) = load_tracks([3], cache=tmp_path)
    (again,) = load_tracks([3], cache=tmp_path)
    assert np.array_equal(first.frames, again.frames) and np.array_equal(first.samples, again.samples)
    assert [path.name for path in tmp_path.iterdir()] == ["3.npz"]


def test_encoding_equals_the_collator(encoder):
    clips, collator = PairedClips(encoder, 4), OmniVinciDataCollator(encoder.processor)
    for index in range(4):
        seen, heard, chosen = clips.draw(index)
        expected = collator.encode(row(encoder.tracks[seen], encoder.tracks[heard], chosen, "x"))
        found = clips[index]
        for name in ("ids", "labels", "positions", "branches"):
            assert torch.equal(getattr(found, name), getattr(expected, name)), name
        for name, value in expected.media.items():
            # spectrograms are kept in half precision
            torch.testing.assert_close(found.media[name], value, rtol=0, atol=1e-3, msg=name)


def test_rows_are_the_same_every_time_and_of_one_length_in_a_block(encoder):
    one, other = PairedClips(encoder, 2 * BLOCK_ROWS, seed=5), PairedClips(encoder, 2 * BLOCK_ROWS, seed=6)
    assert one.draw(3) == PairedClips(encoder, 2 * BLOCK_ROWS, seed=5).draw(3) != other.draw(3)
    lengths = {encoder.tracks[one.draw(index)[0]].scene.duration_sec for index in range(BLOCK_ROWS)}
    assert len(lengths) == 1


def test_families_can_be_left_out(encoder):
    clips = PairedClips(encoder, 20, lists=0, families=("vision", "time"))
    assert {question.family for index in range(20) for question in clips.draw(index)[2]} == {"vision", "time"}


def test_labels_of_the_encoders_follow_from_the_events(encoder):
    frames, shapes = next(frame_batches(encoder.tracks, 64, seed=0))
    assert frames.shape == (64, 3, 56, 56) and 0 < shapes.sum(1).max() <= 2
    windows, sounds = next(window_batches(encoder, 32, seed=0))
    assert windows.shape[1:] == (64, 200) and sounds.shape == (32, 10)
    assert (sounds == SILENCE).any() and (sounds != SILENCE).any()


def test_training_ends_in_a_checkpoint(encoder, tmp_path):
    plan = Plan(vision_steps=2, audio_steps=2, alignment_steps=2, joint_steps=2)
    train_small(tmp_path, plan, encoder, log=lambda text: None)
    model = OmniVinciForConditionalGeneration.from_pretrained(tmp_path)
    assert model.config.omni_align_config is not None
    assert OmniVinciProcessor.from_pretrained(tmp_path).video_processor.fps == 2
    assert [record["stage"] for record in json.loads((tmp_path / "log.json").read_text())]
