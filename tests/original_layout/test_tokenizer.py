"""Tokenizer, chat template and stop tokens are those that the original code works with."""

import json

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from omnivinci_hf.omnivinci.conversation_omnivinci import CHAT_TEMPLATE
from omnivinci_hf.original_layout.tokenizer import load_original_tokenizer
from omnivinci_hf.testing import write_tiny_checkpoint
from tests.support.original_variants import (
    both,
    copy_checkpoint,
    main,
    patch,
    remove,
    template_in_file,
    text,
    without_words,
)


QUESTION = [
    {"role": "user", "content": [{"type": "image", "image": torch.zeros(3, 8, 8)}, {"type": "text", "text": "?"}]}
]
EOS, PAD = 458, 456  # <|im_end|>, <|endoftext|>
QWEN = (
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}"
    "{%- else %}{{- '<|im_start|>system\\nYou are Qwen.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}{%- if message.role != 'system' %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{%- endif %}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("tokenizer") / "original")


@pytest.fixture
def changed(original, tmp_path):
    def change(*writes):
        folder = copy_checkpoint(original, tmp_path / "changed")
        both(*writes)(folder)
        return folder

    return change


def prompt(folder, conversation=QUESTION):
    return AutoProcessor.from_pretrained(folder).apply_chat_template(conversation, add_generation_prompt=True)


class TestTemplate:
    def test_the_usual_one_stays_what_marks_the_assistant(self, original):
        assert AutoProcessor.from_pretrained(original).chat_template == CHAT_TEMPLATE

    def test_the_tokenizer_s_is_used(self, changed):
        folder = changed(patch("llm/tokenizer_config.json", {"chat_template": QWEN}))
        expected = (
            "<|im_start|>system\nYou are Qwen.<|im_end|>\n<|im_start|>user\n<image>?<|im_end|>\n<|im_start|>assistant\n"
        )
        assert prompt(folder) == expected

    def test_of_several_the_default_is_used(self, changed):
        named = [{"name": "default", "template": QWEN}, {"name": "other", "template": "{{ 'nothing' }}"}]
        assert "You are Qwen." in prompt(changed(patch("llm/tokenizer_config.json", {"chat_template": named})))

    def test_the_file_that_the_main_file_names_goes_first(self, changed):
        lines = QWEN.replace("{%- ", "\n    {%- ")
        folder = changed(main(chat_template="qwen"), text("qwen.jinja", lines))
        assert "You are Qwen." in prompt(folder)

    def test_the_usual_one_in_a_file_is_recognised(self, changed):
        assert AutoProcessor.from_pretrained(changed(template_in_file)).chat_template == CHAT_TEMPLATE

    def test_system_words_and_several_turns_pass_through(self, changed):
        folder = changed(patch("llm/tokenizer_config.json", {"chat_template": QWEN}))
        conversation = [
            {"role": "system", "content": "Be short."},
            *QUESTION,
            {"role": "assistant", "content": "Yes."},
            {"role": "user", "content": "Why?"},
        ]
        turns = ["system\nBe short.", "user\n<image>?", "assistant\nYes.", "user\nWhy?"]
        expected = "".join(f"<|im_start|>{turn}<|im_end|>\n" for turn in turns) + "<|im_start|>assistant\n"
        assert prompt(folder, conversation) == expected

    def test_media_are_encoded_as_with_the_usual_one(self, changed, original):
        folder = changed(patch("llm/tokenizer_config.json", {"chat_template": QWEN}))
        options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}
        usual, other = (
            AutoProcessor.from_pretrained(path).apply_chat_template(QUESTION, **options) for path in (original, folder)
        )
        assert torch.equal(usual["pixel_values"], other["pixel_values"])
        placeholder = AutoProcessor.from_pretrained(folder).image_token_id
        assert (usual["input_ids"] == placeholder).sum() == (other["input_ids"] == placeholder).sum() > 0

    def test_it_is_saved_with_the_processor(self, changed, tmp_path):
        folder = changed(patch("llm/tokenizer_config.json", {"chat_template": QWEN}))
        AutoProcessor.from_pretrained(folder).save_pretrained(tmp_path / "saved")
        assert prompt(tmp_path / "saved") == prompt(folder)

    def test_one_given_when_loading_goes_before_all(self, changed):
        folder = changed(patch("llm/tokenizer_config.json", {"chat_template": QWEN}))
        processor = AutoProcessor.from_pretrained(folder, chat_template="{{ 'mine' }}")
        assert processor.apply_chat_template(QUESTION) == "mine"

    def test_one_that_cannot_be_rendered_is_used_as_it_is(self, changed):
        broken = "{{ raise_exception('only with tools') }}"
        folder = changed(patch("llm/tokenizer_config.json", {"chat_template": broken}))
        with pytest.raises(Exception, match="only with tools"):
            prompt(folder)


class TestStopTokens:
    @pytest.mark.parametrize(
        ("writes", "expected"),
        [
            ([], [EOS, PAD]),  # the file's, which include the one that is inferred
            ([remove("llm/generation_config.json")], [EOS]),
            ([patch("llm/generation_config.json", {"eos_token_id": None})], [EOS]),
            ([patch("llm/generation_config.json", {"eos_token_id": EOS})], EOS),
            ([patch("llm/generation_config.json", {"eos_token_id": [str(EOS), str(PAD)]})], [EOS, PAD]),
            ([patch("llm/generation_config.json", {"eos_token_id": 7})], [EOS]),
            (
                [
                    patch("llm/tokenizer_config.json", {"eos_token": "<|endoftext|>"}),
                    remove("llm/generation_config.json"),
                ],
                [PAD, EOS],
            ),
        ],
    )
    def test_those_of_tokenizer_and_template(self, changed, writes, expected):
        generation = AutoModel.from_pretrained(changed(*writes)).generation_config
        assert generation.eos_token_id == expected
        assert generation.pad_token_id == PAD

    def test_the_end_of_a_turn_is_that_of_the_template(self, changed):
        template = "{% for message in messages %}{{ message['content'] + '<|video_eos|>' }}{% endfor %}"
        folder = changed(
            patch("llm/tokenizer_config.json", {"chat_template": template}), remove("llm/generation_config.json")
        )
        ids = AutoModel.from_pretrained(folder).generation_config.eos_token_id
        assert ids == [EOS, load_original_tokenizer(str(folder)).convert_tokens_to_ids("<|video_eos|>")]

    def test_the_original_code_generates_greedily(self, changed):
        sampling = {"do_sample": True, "temperature": 0.7, "repetition_penalty": 1.05}
        generation = AutoModel.from_pretrained(changed(patch("llm/generation_config.json", sampling))).generation_config
        assert not generation.do_sample and generation.repetition_penalty in (None, 1.0)


class TestWords:
    def test_those_that_are_there_keep_their_ids(self, original):
        vocabulary = load_original_tokenizer(str(original)).get_vocab()
        assert (vocabulary["<image>"], vocabulary["<vila/sentinel>"]) == (459, 468)

    def test_those_that_are_not_are_added_in_the_original_order(self, changed):
        words = ["<vila/sentinel>", "<image>", "<vila/video>", "<sound>"]
        folder = changed(without_words(*words))
        tokenizer = load_original_tokenizer(str(folder))
        assert [tokenizer.convert_tokens_to_ids(word) for word in words] == [465, 466, 467, 468]
        assert tokenizer.decode([466], skip_special_tokens=True) == ""

    def test_numbers_in_the_llm_s_config_may_be_strings(self, changed):
        config = json.loads((changed() / "llm" / "config.json").read_text())
        assert config["hidden_size"] == 64
