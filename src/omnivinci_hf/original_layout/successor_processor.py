"""This module reads the processor's files of a checkpoint of Audio-Visual Flamingo that lies in one folder."""

from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils import CHAT_TEMPLATE_FILE, FEATURE_EXTRACTOR_NAME, PROCESSOR_NAME
from transformers.utils.chat_template_utils import render_jinja_template

from ..omnivinci.checkpoint_files_omnivinci import component_file
from ..omnivinci.configuration_omnivinci import MEDIA_TOKENS, OmniVinciConfig
from ..omnivinci.conversation_omnivinci import CHAT_TEMPLATE
from ..omnivinci.options_omnivinci import FILE_ENTRIES, FIXED_OPTIONS, ORIGINAL_OPTIONS
from .components import judge_key
from .config import map_original_processor_options, present
from .findings import Findings
from .successor import PROCESSOR_KEYS, noted_media_ids, read_json, to_original_words
from .values import number


NESTED_PARTS = ("image_processor", "feature_extractor")
LEGACY_CHAT_TEMPLATE_FILE = "chat_template.json"
# key of the feature extractor or image processor -> the value that the processor here has
EXPECTED_VALUES = {
    name: {**FIXED_OPTIONS, "dither": 0.0}[name]
    for name in ("padding_value", "dither", "do_resize", "do_rescale", "do_normalize", "resample", "rescale_factor")
}
PASSED = ("n_fft", "image_mean", "image_std")  # options of the same name and meaning here
SIZE_KEYS = ("size", "crop_size")
# name in the feature extractor -> name beside the other options, which must agree
AUDIO_KEYS = {"sampling_rate": "audio_sampling_rate", "hop_length": "audio_hop_length"}
KNOWN_KEYS = {*PROCESSOR_KEYS, *NESTED_PARTS, *FILE_ENTRIES, "tokenizer", "chat_template"}
KNOWN_PART_KEYS = {
    *(*EXPECTED_VALUES, *PASSED, *FILE_ENTRIES, *SIZE_KEYS, *AUDIO_KEYS, "feature_size"),
    # They follow from others, or make no difference to RGB images.
    *("chunk_length", "n_samples", "nb_max_frames", "do_convert_rgb", "default_to_square", "_valid_processor_keys"),
}


def one_folder_processor_options(
    config: Mapping[str, Any],
    model_config: OmniVinciConfig,
    name_or_path: str,
    hub_options: Mapping[str, Any],
    given: Mapping[str, Any],
    findings: Findings | None = None,
) -> dict[str, Any]:
    """Returns the options of the processor that the files of a checkpoint in one folder say.

    How audio is mixed down and where that of a video starts no file says; as for five folders, `load_processor` takes
    what OmniVinci's code does, and a finding says so.

    Args:
        config: the parsed `config.json`.
        model_config: what it was translated to.
        given: options of the caller, about which the files may contradict themselves.
        findings: a list that grows by what is refused or not read.

    Raises:
        ValueError: for an option that would change numbers and is unknown, or contradicts another; it is named.
    """
    findings = Findings() if findings is None else findings
    stored = read_json(name_or_path, PROCESSOR_NAME, hub_options)
    for key in sorted(stored.keys() - KNOWN_KEYS):
        judge_key("", key, stored[key], PROCESSOR_NAME, findings, PROCESSOR_NAME)
    words = to_original_words(config, stored, findings)
    options = map_original_processor_options(words, findings)
    options["num_frames"] = options.get("num_frames")  # None: all frames
    part = present(_parts(stored, name_or_path, hub_options))
    for key in sorted(part.keys() - KNOWN_PART_KEYS):
        judge_key("", key, part[key], "The feature extractor or image processor", findings)
    _check_part(part, model_config, findings)
    for name, audio_name in AUDIO_KEYS.items():
        if name in part and name not in given and number(part[name]) != options[name]:
            sentence = (
                f"The feature extractor has {name}={part[name]}, but {audio_name} is {options[name]}: the successor's "
                "classes make the mel frames with the one and cut the time groups by the other. Here one value serves "
                f"both, so no choice gives exactly their numbers: with `{name}={part[name]}` the mel frames are "
                f"theirs, and each group has the audio of its time; with `{name}={options[name]}` both are the latter."
            )
            findings.add("refused", "", name, part[name], sentence)
    for name, value in ORIGINAL_OPTIONS.items():
        if name not in given:
            sentence = (
                f"The files do not say {name}; it is {value!r}, as in OmniVinci's code. Give `{name}=` to choose."
            )
            findings.add("assumed", "", name, value, sentence)
    findings.settle()
    options.update({name: part[name] for name in PASSED if name in part})
    if (template := _chat_template(stored, name_or_path, hub_options)) is not None:
        options["chat_template"] = template
    return options


def stored_padding_side(name_or_path: str, hub_options: Mapping[str, Any]) -> dict[str, str]:
    """Returns the `padding_side` of `processor_config.json`, as an option of the tokenizer, if it has one."""
    side = read_json(name_or_path, PROCESSOR_NAME, hub_options).get("padding_side")
    return {} if side is None else {"padding_side": side}


def check_token_ids(config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> None:
    """Compares the token ids that a `config.json` notes with those of the tokenizer.

    Raises:
        ValueError: when they differ; it names the token.
    """
    words = dict(zip(("image", "video", "sound"), MEDIA_TOKENS.values(), strict=True))
    noted: dict[str, Any] = {words[name]: [token_id] for name, token_id in noted_media_ids(config).items()}
    noted.update(config.get("encoder_text_token_ids") or {})
    for text, ids in noted.items():
        found = tokenizer(text, add_special_tokens=False)["input_ids"]
        if found != ids:
            raise ValueError(
                f"config.json notes the ids {ids} for {text!r}, but the tokenizer has {found}: its files are not those "
                "of this model."
            )


def _parts(stored: Mapping[str, Any], name_or_path: str, hub_options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the entries of feature extractor and image processor, nested in one file or in one of their own."""
    own_file = read_json(name_or_path, FEATURE_EXTRACTOR_NAME, hub_options)
    nested = {name: value for part in NESTED_PARTS for name, value in (stored.get(part) or {}).items()}
    return {**own_file, **nested}


def _check_part(part: Mapping[str, Any], model_config: OmniVinciConfig, findings: Findings) -> None:
    """Refuses values that the parts of the processor here do not have."""
    side = model_config.vision_config.image_size
    expected = {**EXPECTED_VALUES, "feature_size": model_config.audio_config.num_mel_bins}
    for name, value in expected.items():
        if part.get(name, value) != value:
            sentence = (
                f"The files of the processor have {name}={part[name]!r}, which is not supported; expected {value!r}."
            )
            findings.add("refused", "", name, part[name], sentence)
    for name in SIZE_KEYS:
        size = part.get(name, side)
        if (set(size.values()) if isinstance(size, Mapping) else {size}) != {side}:
            sentence = f"The image processor has {name}={size}, but the model reads tiles of {side} pixels."
            findings.add("refused", "", name, size, sentence)


def _chat_template(stored: Mapping[str, Any], name_or_path: str, hub_options: Mapping[str, Any]) -> str | None:
    """Returns the chat template of the files; None if they have none, or one that writes the same as the default."""
    template = stored.get("chat_template")
    if (file := component_file(name_or_path, "", CHAT_TEMPLATE_FILE, hub_options)) is not None:
        with open(file, encoding="utf-8") as stream:
            template = stream.read()
    elif template is None:
        template = read_json(name_or_path, LEGACY_CHAT_TEMPLATE_FILE, hub_options).get("chat_template")
    # The default one also marks the words of the assistant, which training needs.
    return None if template is None or _writes_the_same(template) else template


def _writes_the_same(template: str) -> bool:
    try:
        return _prompts(template) == _prompts(CHAT_TEMPLATE)
    except (TemplateError, TypeError):
        return False  # it refuses what the default one takes, a system turn or content in parts


def _prompts(template: str) -> list[str]:
    """Writes a few conversations that show what a template does."""
    parts = [{"type": name} for name in ("image", "video", "audio")]
    question = {"role": "user", "content": [*parts, {"type": "text", "text": "What?"}]}
    answer = {"role": "assistant", "content": "That."}
    system = {"role": "system", "content": "Be brief."}
    conversations: Any = [[question], [question, answer, question], [system, question]]
    return [
        prompt
        for generation in (True, False)
        for prompt in render_jinja_template(
            conversations=conversations, chat_template=template, add_generation_prompt=generation
        )[0]
    ]
