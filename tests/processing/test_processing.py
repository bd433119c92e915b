import copy
import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from omnivinci_hf import MediaError, OmniVinciConfig, OmniVinciProcessor, load_audio, load_video
from omnivinci_hf.inspection.report import original_layout
from tests.support import goldens
from tests.support.random_model import random_model


IMAGE = str(goldens.SMALL / "b_image" / "image.png")
IMAGE_2 = str(goldens.SMALL / "c_two_images" / "image2.png")
AUDIO = str(goldens.SMALL / "d_audio3" / "audio.wav")
VIDEO = str(goldens.SMALL / "h_video5" / "video.mp4")
SILENT = str(goldens.SMALL / "g_video5_silent" / "video.mp4")
IMAGE_ID, VIDEO_ID, AUDIO_ID, NEWLINE = 459, 460, 461, 198


def chat(processor, *parts, **options):
    content = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt", **options
    )


def video(source=VIDEO, **more):
    return {"type": "video", "video": source, **more}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# -- what a medium may be ------------------------------------------------------------------------------------------


def test_images_of_every_kind_give_the_same_tensors(processor):
    image = Image.open(IMAGE).convert("RGB")
    array = np.asarray(image)
    with open(IMAGE, "rb") as stream:
        data = stream.read()
    kinds = [image, array, torch.from_numpy(array.copy()).permute(2, 0, 1), data, io.BytesIO(data)]
    expected = chat(processor, {"type": "image", "path": IMAGE}, "What?")
    for kind in kinds:
        assert same(chat(processor, {"type": "image", "image": kind}, "What?"), expected)


def test_videos_of_every_kind_give_the_same_tensors(processor):
    clip = load_video(VIDEO)
    frames = np.stack([np.asarray(frame) for frame in clip.frames])
    metadata = {"fps": clip.fps}
    expected = chat(processor, video(), "What?", load_audio_from_video=False)
    for kind in (frames, torch.from_numpy(frames).permute(0, 3, 1, 2), clip.frames):
        given = chat(processor, video(kind, video_metadata=metadata), "What?")
        assert same(given, expected)
    with open(VIDEO, "rb") as stream:
        assert same(chat(processor, video(stream), "What?", load_audio_from_video=False), expected)


def test_audio_of_every_kind_gives_the_same_tensors(processor):
    samples = load_audio(AUDIO).samples
    expected = chat(processor, {"type": "audio", "path": AUDIO}, "What?")
    for kind in (samples, torch.from_numpy(samples), samples.tolist()):
        part = {"type": "audio", "audio": kind, "sampling_rate": 16000}
        assert same(chat(processor, part, "What?"), expected)
    part = {"type": "audio", "audio": {"array": samples, "sampling_rate": 16000}}
    assert same(chat(processor, part, "What?"), expected)
    assert same(chat(processor, {"type": "audio", "audio": samples}, "What?", sampling_rate=16000), expected)


def test_a_call_with_placeholders_equals_the_chat_template(processor):
    messages = [
        {"role": "user", "content": [video(), {"type": "image", "image": IMAGE}, {"type": "text", "text": "?"}]}
    ]
    prompt = processor.apply_chat_template(messages)
    assert "<vila/video><image>?" in prompt
    called = processor(text=prompt, videos=VIDEO, images=IMAGE, return_tensors="pt")
    assert same(called, processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt"))
    nested = processor(text=[prompt], videos=[[VIDEO]], images=[[IMAGE]], return_tensors="pt")
    assert same(nested, called)


def test_an_openai_image_url_with_data_is_taken(processor):
    import base64

    with open(IMAGE, "rb") as stream:
        url = "data:image/png;base64," + base64.b64encode(stream.read()).decode()
    part = {"type": "image_url", "image_url": {"url": url}}
    assert same(chat(processor, part), chat(processor, {"type": "image", "path": IMAGE}))


def test_the_conversation_is_left_as_it_is(processor):
    messages = [{"role": "user", "content": [video(), {"type": "text", "text": "What <image>?"}]}]
    before = copy.deepcopy(messages)
    processor.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert messages == before


# -- prompts --------------------------------------------------------------------------------------------------------


def test_the_prompt_is_the_original_one(processor):
    messages = [
        {"role": "user", "content": [{"type": "audio", "audio": AUDIO}, {"type": "text", "text": " Hi "}]},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And?"},
    ]
    assert processor.apply_chat_template(messages, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\n<sound> Hi <|im_end|>\n"
        "<|im_start|>assistant\nYes.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\n"
    )
    system = [{"role": "system", "content": "Be short."}, *messages[2:]]
    assert processor.apply_chat_template(system).startswith("<|im_start|>system\nBe short.<|im_end|>\n<|im_start|>user")


def test_placeholders_in_the_users_words_are_not_media(processor):
    inputs = chat(processor, "Is <image> or <sound> a token, or <im<image>age>?")
    assert not torch.isin(inputs["input_ids"], torch.tensor([IMAGE_ID, VIDEO_ID, AUDIO_ID])).any()


def test_a_message_can_be_continued(processor):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "It is"}]
    prompt = processor.apply_chat_template(messages, continue_final_message=True)
    assert prompt.endswith("<|im_start|>assistant\nIt is")
    with pytest.raises(ValueError, match="cannot be combined with `add_generation_prompt`"):
        processor.apply_chat_template(messages, continue_final_message=True, add_generation_prompt=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_assistant_masks_mark_the_answers_alone(processor, side):
    conversations = [
        [
            {"role": "user", "content": [video(), {"type": "text", "text": "What is it, then?"}]},
            {"role": "assistant", "content": "A red circle."},
        ],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"}],
    ]
    inputs = processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        return_assistant_tokens_mask=True,
        processor_kwargs={"padding": True, "padding_side": side},
    )
    for ids, mask, answer in zip(
        inputs["input_ids"], inputs["assistant_masks"], ["A red circle.", "Good day"], strict=True
    ):
        assert processor.decode(ids[mask.bool()]) == answer + "<|im_end|>"


def test_token_types_name_the_modalities(processor):
    inputs = chat(processor, video(), {"type": "image", "image": IMAGE}, "x", return_mm_token_type_ids=True)
    types = inputs["mm_token_type_ids"]
    for type_id, token_id in ((1, IMAGE_ID), (2, VIDEO_ID), (3, AUDIO_ID)):
        assert torch.equal(types == type_id, inputs["input_ids"] == token_id)


def test_decoding(processor):
    ids = processor(text="What happens?")["input_ids"]
    assert processor.batch_decode(ids, skip_special_tokens=True) == ["What happens?"]


# -- layout ---------------------------------------------------------------------------------------------------------


def test_an_image_is_tiled_in_every_row_that_has_one_image(processor):
    rows = [
        [{"role": "user", "content": [{"type": "image", "image": image} for image in images]}]
        for images in ([IMAGE], [IMAGE, IMAGE_2], [IMAGE_2])
    ]
    inputs = processor.apply_chat_template(
        rows, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs={"padding": True}
    )
    grids = inputs["image_grids"].tolist()
    assert grids[1:3] == [[0, 0], [0, 0]] and min(grids[0]) > 0 and min(grids[3]) > 0
    tiles = sum(5 + rows * columns if rows else 1 for rows, columns in grids)
    assert len(inputs["pixel_values"]) == tiles


def test_a_video_with_audio_is_laid_out_in_time_groups(processor):
    (layout,) = processor.describe(videos=VIDEO, group_duration_sec=2.0)
    assert [group.frames for group in layout.groups] == [(0, 3), (3, 6), (6, 8)]
    assert [group.audio_embeds for group in layout.groups] == [(0, 51), (51, 101), (101, 126)]
    ids, position = layout.ids.tolist(), 0
    for group in layout.groups:
        for token, (first, last) in ((VIDEO_ID, group.video_embeds), (AUDIO_ID, group.audio_embeds)):
            assert ids[position : position + last - first + 1] == [token] * (last - first) + [NEWLINE]
            position += last - first + 1
    assert position == len(ids) and layout.num_audio_embeds == 126


def test_without_groups_the_whole_audio_stands_before_the_video(processor):
    ids = chat(processor, "a", video(), "b", group_duration_sec=None)["input_ids"][0]
    audio, picture = (ids == AUDIO_ID).nonzero(), (ids == VIDEO_ID).nonzero()
    assert len(audio) == 750 and len(picture) == 128 and audio.max() + 2 == picture.min()


def test_frame_times_are_the_files_own(processor):
    inputs = chat(processor, video(), "x", num_frames=3)
    assert inputs["video_frame_times_ns"].tolist() == [0, 2_400_000_000, 4_900_000_000]
    inputs = chat(processor, video(), "x", fps=2)
    assert inputs["video_num_frames"].tolist() == [10]
    assert inputs["video_frame_times_ns"].tolist() == [i * 500_000_000 for i in range(10)]


def test_audio_stands_where_it_was_written(processor):
    audio = {"type": "audio", "audio": AUDIO}
    before = chat(processor, audio, video())
    after = chat(processor, video(), audio)
    assert before["audio_num_embeds"].tolist() == after["audio_num_embeds"].tolist()[::-1]
    assert torch.equal(before["input_features"].flip(0), after["input_features"])


def test_a_silent_video_before_one_with_audio_works(processor):
    inputs = chat(processor, video(SILENT), video())
    assert inputs["video_num_frames"].tolist() == [8, 8] and inputs["audio_num_windows"].tolist() == [1]


def test_audio_longer_than_the_limit_is_cut(processor):
    inputs = chat(processor, {"type": "audio", "audio": (np.zeros(16000 * 70, np.float32) + 0.1, 16000)})
    assert inputs["audio_num_windows"].tolist() == [3] and inputs["audio_num_embeds"].tolist() == [2250]
    inputs = chat(
        processor, {"type": "audio", "audio": (np.zeros(16000 * 70, np.float32) + 0.1, 16000)}, max_audio_sec=30
    )
    assert inputs["audio_num_windows"].tolist() == [1]


def test_a_literal_padding_token_is_dropped(processor):
    (ids,) = processor(text="a<|endoftext|>b")["input_ids"]
    assert ids == processor(text="a")["input_ids"][0] + processor(text="b")["input_ids"][0]


# -- options --------------------------------------------------------------------------------------------------------


def test_the_stored_choice_of_hearing_videos_holds_in_both_ways_of_calling(processor, original_folder):
    assert processor.load_audio_from_video
    assert "input_features" in chat(processor, video(), "x")
    assert "input_features" in processor(text="<vila/video>", videos=VIDEO)
    assert "input_features" not in chat(processor, video(), "x", load_audio_from_video=False)
    assert "input_features" not in processor(text="<vila/video>", videos=VIDEO, load_audio_from_video=False)
    deaf = OmniVinciProcessor.from_pretrained(original_folder, load_audio_from_video=False)
    assert "input_features" not in chat(deaf, video(), "x")
    assert "input_features" in chat(deaf, video(), "x", load_audio_from_video=True)


def test_every_option_survives_saving_and_loading(original_folder, tmp_path):
    processor = OmniVinciProcessor.from_pretrained(
        original_folder,
        load_audio_from_video=False,
        align_audio_start=True,
        video_audio_downmix="mean",
        max_audio_sec=None,
        group_duration_sec=None,
        boundary_tokens={"image_end": None, "video_end": "\n"},
        use_modality_boundary_tokens=True,
        video_pool_sizes=[[2, 2, 2]],
        audio_merge_size=5,
        num_frames=17,
        fps=3.0,
        hop_length=80,
        max_tiles=10,
    )
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is OmniVinciProcessor
    saved = processor.to_dict()
    del saved["auto_map"]  # for machines without this package
    assert again.to_dict() == saved
    assert again.chat_template == processor.chat_template
    assert again.tokenizer.padding_side == "left"
    assert again.video_processor.fps == 3.0 and again.group_duration_sec is None
    assert again.boundary_tokens["image_end"] is None
    assert OmniVinciProcessor.from_pretrained(tmp_path, num_frames=5, max_audio_sec=9.0).video_processor.num_frames == 5


def test_the_original_layout_brings_its_options(processor):
    assert processor.video_processor.num_frames == 8
    assert processor.max_audio_sec == 3600.0
    assert processor.video_audio_downmix == "sum" and not processor.align_audio_start
    assert processor.image_processor.s2_scales == [56, 112, 168]


def test_remote_code_entries_of_the_original_repository_are_not_followed(original_folder, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(original_folder, folder)
    remote = {"processor_class": "VILAProcessor", "auto_map": {"AutoProcessor": "auto_processor.VILAProcessor"}}
    for name in ("processor_config.json", "preprocessor_config.json"):
        (folder / name).write_text(json.dumps(remote))
    assert type(AutoProcessor.from_pretrained(folder)) is OmniVinciProcessor
    (folder / "processor_config.json").unlink()
    assert type(AutoProcessor.from_pretrained(folder)) is OmniVinciProcessor


def test_half_precision_casts_leave_the_times_exact(processor):
    inputs = chat(processor, video(), "x", num_frames=7)
    times = inputs["video_frame_times_ns"].clone()
    inputs = inputs.to("cpu", torch.bfloat16)
    assert inputs["pixel_values_videos"].dtype == torch.bfloat16
    assert torch.equal(inputs["video_frame_times_ns"], times)


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, token", [("images", "<image>"), ("videos", "<vila/video>"), ("audio", "<sound>")])
def test_counts_of_placeholders_and_media_must_match(processor, kind, token):
    medium = {"images": IMAGE, "videos": VIDEO, "audio": AUDIO}[kind]
    with pytest.raises(ValueError, match=f"Got 1 '{token}' placeholders in the text but 2 .* inputs"):
        processor(text=token, **{kind: [medium, medium]})
    with pytest.raises(ValueError, match=f"Got 1 '{token}' placeholders in the text but 0 .* inputs"):
        processor(text=token)


def test_truncation_never_cuts_a_medium(processor):
    prompt = "<vila/video>What happens in this video, I wonder?"
    with pytest.raises(ValueError, match="`max_length`=50 would cut a medium"):
        processor(text=prompt, videos=VIDEO, truncation=True, max_length=50)
    kept = processor(text=prompt, videos=VIDEO, truncation=True, max_length=262)
    assert len(kept["input_ids"][0]) == 262


def test_unknown_options_and_parts_are_refused(processor):
    with pytest.raises(TypeError, match=r"has no option \['num_frmes'\]"):
        processor(text="x", num_frmes=3)
    with pytest.raises(ValueError, match="has the type 'smell'"):
        chat(processor, {"type": "smell", "smell": "x"})
    with pytest.raises(ValueError, match="of type 'video' has no medium"):
        chat(processor, {"type": "video"})
    with pytest.raises(ValueError, match="`text` is needed"):
        processor(images=IMAGE)
    with pytest.raises(ValueError, match="Got 1 videos but 2 entries of `video_metadata`"):
        processor(text="<vila/video>", videos=VIDEO, video_metadata=[None, None])


def test_media_that_cannot_be_read_are_named(processor, tmp_path):
    with pytest.raises(MediaError, match="missing.mp4"):
        chat(processor, video(str(tmp_path / "missing.mp4")))
    with pytest.raises(MediaError, match="a frame rate is needed"):
        chat(processor, video(np.zeros((4, 16, 16, 3), np.uint8)))
    with pytest.raises(MediaError, match="needs its sampling rate"):
        chat(processor, {"type": "audio", "audio": np.zeros(1600, np.float32)})


def test_parts_of_the_wrong_class_are_refused(processor):
    with pytest.raises(TypeError, match="Expected an OmniVinciVideoProcessor"):
        OmniVinciProcessor(
            processor.image_processor, processor.image_processor, processor.feature_extractor, processor.tokenizer
        )


def test_a_tokenizer_without_placeholders_is_refused(processor, tmp_path):
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, unk_token="?")))
    with pytest.raises(ValueError, match="The tokenizer lacks the placeholder '<image>'"):
        OmniVinciProcessor(processor.image_processor, processor.video_processor, processor.feature_extractor, plain)


def test_variables_of_a_template_reach_it(processor):
    template = "{{ greeting }}, {{ messages[0]['content'][0]['text'] }}"
    messages = [{"role": "user", "content": "you"}]
    assert processor.apply_chat_template(messages, chat_template=template, greeting="Hi") == "Hi, you"
    with pytest.raises(TypeError, match=r"has no option \['greeting'\]"):
        processor.apply_chat_template(messages, greeting="Hi", tokenize=True)


def test_a_list_per_text_is_checked_row_by_row(processor):
    with pytest.raises(ValueError, match="Text 0 has 1 '<image>' placeholders but its list holds 2 image inputs"):
        processor(text=["<image>A", "<image><image>B"], images=[[IMAGE, IMAGE_2], [IMAGE]])


def test_turn_ends_stay_where_padding_and_end_are_the_same_token(original_folder):
    changed = OmniVinciProcessor.from_pretrained(original_folder)
    changed.tokenizer.pad_token = changed.tokenizer.eos_token
    assert changed.decode(chat(changed, "Hi")["input_ids"][0]).count("<|im_end|>") == 2


def test_truncation_takes_the_tokenizers_length_and_side(original_folder):
    changed = OmniVinciProcessor.from_pretrained(original_folder)
    (whole,) = changed(text="What happens in this video, I wonder?")["input_ids"]
    changed.tokenizer.model_max_length, changed.tokenizer.truncation_side = 5, "left"
    assert changed(text="What happens in this video, I wonder?", truncation=True)["input_ids"] == [whole[-5:]]
    with pytest.raises(ValueError, match="`max_length`=5 would cut a medium"):
        changed(text="<image> What happens in this video?", images=IMAGE, truncation=True)


@pytest.mark.parametrize("frames, seconds", [(50, 0.5), (150, 1.5), (3000, 30.0)])
def test_audio_is_padded_to_whole_windows(processor, frames, seconds):
    config = random_model().config
    config.audio_config.max_source_positions = frames // 2
    changed = OmniVinciProcessor.from_model_config(config, processor.tokenizer)
    inputs = changed.feature_extractor([np.zeros(int(1.2 * seconds * 16000), np.float32)])
    assert inputs["input_features"].shape == (2, 128, frames)
    assert inputs["audio_durations_ns"].tolist() == [2 * seconds * 10**9]


def test_options_of_the_wrong_type_are_refused(original_folder):
    with pytest.raises(ValueError, match="`load_audio_from_video` must be True or False, got 'False'"):
        OmniVinciProcessor.from_pretrained(original_folder, load_audio_from_video="False")
    with pytest.raises(ValueError, match="`video_audio_downmix` must be 'mean' or 'sum', got 'foo'"):
        OmniVinciProcessor.from_pretrained(original_folder, video_audio_downmix="foo")


def test_a_tokenizer_without_modality_boundaries_is_refused(original_folder, processor):
    config = OmniVinciConfig.from_pretrained(original_folder)
    plain = copy.deepcopy(processor.tokenizer)
    plain.get_vocab = lambda: {"a": 0}
    with pytest.raises(ValueError, match=r"the tokenizer lacks the tokens \['<\|image_bos\|>'"):
        OmniVinciProcessor.from_model_config(config, plain, use_modality_boundary_tokens=True)


def test_the_audio_of_a_video_can_be_given_separately(processor):
    clip = load_video(VIDEO, load_audio_from_video=True)
    frames, samples = np.stack([np.asarray(frame) for frame in clip.frames]), clip.audio.samples
    expected = chat(processor, video(), "What?")
    part = video(frames, video_metadata={"fps": clip.fps}, audio=samples, sampling_rate=16000)
    assert same(chat(processor, part, "What?"), expected)
    metadata = {"fps": clip.fps, "audio": samples, "sampling_rate": 16000}
    assert same(chat(processor, video(frames, video_metadata=metadata), "What?"), expected)
    assert same(
        chat(processor, video(SILENT, audio=AUDIO), "x"), chat(processor, video(SILENT, audio=load_audio(AUDIO)), "x")
    )
    assert "input_features" in chat(processor, video(SILENT, audio=AUDIO), "x")


def test_paths_of_frames_are_one_video(processor):
    inputs = chat(processor, video([IMAGE, IMAGE_2, IMAGE], video_metadata={"fps": 1}), "x", num_frames=None)
    assert inputs["video_num_frames"].tolist() == [3]


def test_a_processor_prints_in_a_few_lines_and_writes_itself_whole():
    processor, _ = original_layout()
    lines = repr(processor).splitlines()
    assert len(lines) == 6 and "video: 64 frames of 448 x 448 pixels; its audio is heard" in lines[3]
    assert "16000 Hz, 128 mel bins, windows of 30 s" in lines[4] and lines[5] == "  time: groups of 30 s"
    assert json.loads(processor.to_json_string())["feature_extractor"]["sampling_rate"] == 16000
    processor.video_processor.fps, processor.group_duration_sec = 2.0, None
    assert "2 frames a second, at most 64 frames, of" in repr(processor) and "time: no groups" in repr(processor)
