import numpy as np
import pytest
import torch
from measuring import WaitCounter
from PIL import Image

from omnivinci_hf.omnivinci.outputs_omnivinci import MEDIA_INPUTS
from omnivinci_hf.omnivinci.pipeline_omnivinci import OmniQAPipeline
from omnivinci_hf.omnivinci.video_processing_omnivinci import moving_embeds
from omnivinci_hf.training import OmniVinciDataCollator
from omnivinci_hf.world import Motion, Scene, SoundEvent, write_clip
from omnivinci_hf.world.model import build_config, build_model, build_processor, build_tokenizer
from tests.support.world_scenes import shape, sound, vision


@pytest.fixture(scope="module")
def processor():
    tokenizer = build_tokenizer()
    return build_processor(build_config(tokenizer), tokenizer)


@pytest.fixture(scope="module")
def model(processor):
    return build_model(build_config(processor.tokenizer)).eval()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """6 s at 2 frames looked at per second: empty, a shape that stands still from 2.3 to 4.2 s, empty."""
    still = Motion((0.25, 0.25), (0.25, 0.25))
    picture = vision(shape("red circle", 2.3, 4.2, still), duration=6.0, width=112, height=112)
    scene = Scene(picture, sound(SoundEvent("bell", 1.0, 0.8), duration=6.0))
    return str(write_clip(scene, tmp_path_factory.mktemp("still") / "clip.mp4"))


def encode(processor, media, question="Which shape?", **options):
    conversation = [{"role": "user", "content": [*media, {"type": "text", "text": question}]}]
    return processor.apply_chat_template(
        conversation, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=options
    )


def frames(*grids, pixels=4):
    """Frames whose squares have the given levels, `(rows, columns)` each."""
    return [
        torch.tensor(grid, dtype=torch.float32).kron(torch.ones(pixels, pixels)).expand(3, -1, -1) for grid in grids
    ]


def test_the_first_frame_and_what_changes_are_kept():
    still, moved = [[10, 20], [30, 40]], [[10, 20], [30, 90]]
    kept = moving_embeds(frames(still, still, moved, moved), 5.0, patch_size=4)
    assert kept.tolist() == [[[True] * 2] * 2, [[False] * 2] * 2, [[False, False], [False, True]], [[False] * 2] * 2]


def test_slow_changes_add_up():
    """What is compared is the last that was kept, not the frame before."""
    kept = moving_embeds(frames(*([[level]] for level in range(0, 30, 2))), 5.0, patch_size=4)
    assert kept.flatten().nonzero().flatten().tolist() == [0, 3, 6, 9, 12]


def test_a_moving_square_is_kept_though_the_mean_stays():
    a, b = torch.zeros(3, 4, 4), torch.zeros(3, 4, 4)
    a[:, :2], b[:, 2:] = 80.0, 80.0
    assert moving_embeds([a, b], 20.0, patch_size=4).all()


def test_squares_at_the_edge_may_be_smaller():
    a, b = torch.zeros(3, 6, 6), torch.zeros(3, 6, 6)
    b[:, :, 4:] = 50.0
    assert moving_embeds([a, b], 20.0, patch_size=2, merge_size=2)[1].tolist() == [[False, True], [False, True]]


def test_what_patches_leave_out_does_not_count():
    a, b = torch.zeros(3, 11, 11), torch.zeros(3, 11, 11)
    b[:, :, 8:] = 50.0
    b[:, :4, :4] = 50.0
    assert moving_embeds([a, b], 20.0, patch_size=4)[1].tolist() == [[True, False], [False, False]]


def test_what_an_odd_number_of_patches_leaves_out_does_not_count():
    """As SigLIP at 384 px: 27 patches of 14, of which two by two make an embedding."""
    a, b = torch.zeros(3, 384, 384), torch.zeros(3, 384, 384)
    b[:, :, 378:] = 255.0
    kept = moving_embeds([a, b, b + 50.0], 4.0, patch_size=14, merge_size=2)
    assert kept.shape == (3, 14, 14) and kept[0].all() and not kept[1].any() and kept[2].all()


def test_a_video_that_stands_still_is_told_by_what_changes(processor, clip):
    video = {"type": "video", "path": clip}
    inputs = encode(processor, [video], still_threshold=6.0)
    kept = inputs["video_kept_embeds"].view(-1, 4)
    # the first frame, then the square in which the shape comes and goes
    assert kept[0].all() and kept.nonzero()[4:].tolist() == [[5, 0], [9, 0]]
    assert (inputs["input_ids"] == processor.video_token_id).sum() == kept.sum() == 6
    whole = encode(processor, [video])
    assert "video_kept_embeds" not in whole
    for name in ("pixel_values_videos", "video_frame_times_ns", "input_features", "audio_num_embeds"):
        assert torch.equal(inputs[name], whole[name]), name
    # audio and boundaries stand as before, in the same groups
    dropped = whole["input_ids"][whole["input_ids"] != processor.video_token_id]
    assert torch.equal(inputs["input_ids"][inputs["input_ids"] != processor.video_token_id], dropped)


def test_what_stays_is_the_same_at_its_own_time(processor, model, clip):
    inputs = encode(processor, [{"type": "video", "path": clip}], still_threshold=6.0)
    video = {name: inputs[name] for name in ("pixel_values_videos", "video_num_frames", "video_frame_times_ns")}
    kept = inputs["video_kept_embeds"]
    (whole,) = model.get_video_features(**video).pooler_output
    (some,) = model.get_video_features(**video, video_kept_embeds=kept).pooler_output
    assert torch.equal(some, whole[kept])
    model.config.vision_chunk_size = 5
    (few,) = model.get_video_features(**video, video_kept_embeds=kept).pooler_output
    model.config.vision_chunk_size = None
    torch.testing.assert_close(few, whole[kept], rtol=0, atol=1e-5)
    # and where it belongs in the sequence
    media = {name: inputs[name] for name in ("input_ids", *MEDIA_INPUTS) if name in inputs}
    embeds = model.model.embed_inputs(**media)
    torch.testing.assert_close(embeds[inputs["input_ids"] == processor.video_token_id], whole[kept], rtol=0, atol=1e-5)


def test_no_chunk_waits_for_what_is_left_out(processor, model, clip):
    inputs = encode(processor, [{"type": "video", "path": clip}], still_threshold=6.0)
    counts = []
    for size in (1, 100):
        model.config.vision_chunk_size = size
        with torch.no_grad(), WaitCounter() as waits:
            model(**inputs)
        counts.append(waits.counts["omnivinci_hf"])
    model.config.vision_chunk_size = None
    assert counts[0] == counts[1]


def test_groups_without_change_stay(processor, clip):
    (whole,), (layout,) = (processor.describe(videos=[clip], still_threshold=level) for level in (None, 6.0))
    assert [group.frames for group in layout.groups] == [group.frames for group in whole.groups]
    assert [group.video_embeds for group in layout.groups] == [(0, 4), (4, 4), (4, 5), (5, 5), (5, 6), (6, 6)]
    assert layout.num_embeds == 6 and len(layout.ids) == len(whole.ids) - whole.num_embeds + 6


def test_a_batch_is_answered_as_its_rows(processor, model, clip):
    pipe = OmniQAPipeline(model=model, processor=processor)
    noise = [Image.fromarray(frame) for frame in np.random.default_rng(0).integers(0, 255, (3, 56, 56, 3), np.uint8)]
    rows = [
        {"video": clip, "question": "Which shape appears first?"},
        {"video": noise, "video_metadata": {"fps": 1}, "question": "Which shape appears last?"},
        {"question": "Which sound is heard first?"},
    ]
    options = {"still_threshold": 6.0, "max_new_tokens": 4, "min_new_tokens": 4}
    alone = [pipe(row, **options) for row in rows]
    assert pipe(rows, batch_size=3, num_beams=1, **options) == alone


def test_training_sees_as_little(processor, model, clip):
    messages = [
        {"role": "user", "content": [{"type": "video", "path": clip}, {"type": "text", "text": "Which shape?"}]},
        {"role": "assistant", "content": "circle"},
    ]
    collator = OmniVinciDataCollator(processor, still_threshold=6.0)
    batch = collator([{"messages": messages}, {"messages": messages}])
    assert batch["video_kept_embeds"].sum() == 12
    model(**batch).loss.backward()
    silent = [{"role": "user", "content": "Which shape?"}, messages[1]]
    assert torch.isfinite(model(**collator([{"messages": silent}])).loss)


def test_wrong_options_are_refused(processor, model, clip):
    video = {"type": "video", "path": clip}
    with pytest.raises(ValueError, match="`still_threshold` must be more than 0, got -1"):
        encode(processor, [video], still_threshold=-1)
    config = build_config(processor.tokenizer, video_pool_sizes=[[2, 1, 1]])
    pooling = build_processor(config, processor.tokenizer)
    with pytest.raises(ValueError, match="needs embeddings of single frames, but `video_pool_sizes` is"):
        encode(pooling, [video], still_threshold=6.0)
    inputs = encode(processor, [video], still_threshold=6.0)
    inputs["video_kept_embeds"] = inputs["video_kept_embeds"][1:]
    with pytest.raises(ValueError, match="speaks of 47 embeddings but the videos give 48"):
        model(**inputs)
    del inputs["video_kept_embeds"]
    with pytest.raises(ValueError, match="has 6 video placeholders but the video inputs give 48"):
        model(**inputs)


def test_the_option_is_kept_with_the_processor(processor, tmp_path):
    other = type(processor).from_model_config(
        build_config(processor.tokenizer), processor.tokenizer, still_threshold=4.0
    )
    other.save_pretrained(tmp_path)
    assert type(processor).from_pretrained(tmp_path).still_threshold == 4.0
