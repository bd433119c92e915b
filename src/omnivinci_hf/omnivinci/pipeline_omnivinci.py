"""This module is `pipeline("omni-qa")`, which answers questions about images, videos and audio."""

import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset
from transformers import Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from .checkpoint_files_omnivinci import ModelCardMixin
from .configuration_omnivinci import MODALITIES
from .conversation_omnivinci import parse_part
from .generation_omnivinci import check_generate_options, check_parts, new_ids
from .session_omnivinci import (
    PLURALS,
    Session,
    check_plurals,
    check_roles,
    media_content,
    read_prompt,
    refuse_disobeyed,
    with_question,
    with_system,
    without_media,
)


INPUT_KEYS = (*MODALITIES, "question", "messages", "video_metadata", "sampling_rate")
PUSH_OPTIONS = (
    *("repo_id", "commit_message", "commit_description", "private", "token"),
    *("revision", "create_pr", "tags"),
)
PIPELINE_OPTIONS = (
    *("system", "processor_kwargs", "generate_kwargs", "return_tensors", "return_token_counts"),
    *("batch_size", "num_workers"),
)


class OmniQAPipeline(ModelCardMixin, Pipeline):
    r"""
    Answers questions about any mixture of images, videos and audio.

        pipe = pipeline("omni-qa", model="nvidia/omnivinci")
        pipe(video="clip.mp4", question="What happens?")            # [{"question": ..., "answer": ...}]
        pipe(video="clip.mp4", question=["Who?", "Where?"])         # the clip is read and encoded once
        pipe([{"image": "a.jpg", "question": "What?"}, {"audio": "b.wav", "question": "Who?"}], batch_size=2)
        pipe([{"role": "user", "content": [...]}])                  # a chat

    A call with one input returns a list with one dictionary per question; a list of inputs (or a data set, or a
    generator, as an iterator) one such list per input. Keys: `question`, `answer`, with `return_token_counts` also
    `prompt_tokens` and `new_tokens`, with `return_tensors` `generated_token_ids` in place of `answer`. With
    `num_return_sequences` above one there is a dictionary per question and sequence.

    Options of a call (or of the pipeline): `system` prompt, `max_new_tokens` (default 256), `streamer`,
    `generate_kwargs` and every option of `generate`; options of the processor (`num_frames`, `fps`,
    `load_audio_from_video`, `video_metadata`, `sampling_rate`, ...) as keywords or in `processor_kwargs`;
    `return_tensors`, `return_token_counts`; `batch_size` and `num_workers` for lists.
    """

    processor: Any
    # the base class declares these as None, and reads booleans
    _load_processor = True  # type: ignore[assignment]
    _load_tokenizer = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_video_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]
    _pipeline_calls_generate = False  # the options of `generate` are passed on as they are

    def __init__(self, model, *args, processor=None, **kwargs):
        check_parts(model, processor)
        super().__init__(model, *args, processor=processor, **kwargs)

    # unlike in the base class, an unknown positional argument is an error and no warning
    def __call__(self, inputs: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Answers one input, or several.

        Args:
            inputs: a question, a dictionary, a chat (list of messages), a list of any of these, a data set of them or
                a generator. Or none, and the keys of one dictionary as keywords: `question` (`str` or `list[str]`),
                `image`, `video`, `audio` (one medium or a list of them, each a path, bytes, array, tensor, ...).
        """
        names = [name for name in kwargs if name in (*MODALITIES, *PLURALS, "question", "messages")]
        inputs = _with_keywords(inputs, {name: kwargs.pop(name) for name in names})
        if _is_one(inputs):
            return super().__call__(_Item(inputs), **kwargs)
        if isinstance(inputs, (list, tuple)):
            items = [_Item(item) for item in inputs]
            return super().__call__(items, **kwargs) if items else []
        if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
            return super().__call__(_Rows(inputs), **kwargs)
        # whatever else can be gone through, data sets without a length among it, is streamed
        return super().__call__((_Item(item) for item in inputs), **kwargs)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Saves model, processor and their code, the pipeline's too; `kwargs` go to the model's `save_pretrained`.

        `push_to_hub=True` then also calls `push_to_hub(repo_id)`, with its options among `kwargs`; `repo_id` is by
        default the name of the folder.
        """
        pushed = {}
        if push_to_hub:
            pushed = {name: kwargs.pop(name) for name in PUSH_OPTIONS if name in kwargs}
            if unknown := sorted(kwargs.keys() - {"max_shard_size"}):
                raise ValueError(
                    f"{unknown} cannot be combined with `push_to_hub=True`: save, then upload the folder with "
                    "`huggingface_hub.upload_folder`."
                )
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)
        if push_to_hub:
            repo_id = pushed.pop("repo_id", None) or Path(save_directory).resolve().name
            self.push_to_hub(repo_id, **pushed, **kwargs)

    def _sanitize_parameters(
        self,
        system: str | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        return_tensors: bool | None = None,
        return_token_counts: bool | None = None,
        **options,
    ):
        known = self.processor.call_option_names - {"max_length"}  # that is an option of `generate` here
        flat = {name: options.pop(name) for name in known & options.keys()}
        refuse_disobeyed("This pipeline", {**flat, **(processor_kwargs or {})}, ["return_tensors"])
        doors = (("as an argument", flat), ("in `processor_kwargs`", processor_kwargs or {}))
        self.processor.resolve_options(*doors)
        preprocess = {**flat, **(processor_kwargs or {})}
        if system is not None:
            preprocess["system"] = system
        forward = _merged(options, generate_kwargs or {})
        check_generate_options("This pipeline", self.model, forward, {*PIPELINE_OPTIONS, *known})
        postprocess = {"return_tensors": return_tensors, "return_token_counts": return_token_counts}
        return preprocess, forward, {name: value for name, value in postprocess.items() if value is not None}

    # the base class gives all of these options a dictionary's type, and a step's outputs that of a model

    def preprocess(  # type: ignore[override]
        self, input_: Any, system: str | None = None, **options: Any
    ) -> dict[str, Any]:
        """Reads the media of one input: what [`~OmniQAPipeline.forward`] takes."""
        item = _as_item(input_.value if isinstance(input_, _Item) else input_)
        options.update({name: item[name] for name in ("video_metadata", "sampling_rate") if name in item})
        if "messages" not in item:
            messages, questions = _media_and_questions(item, system)
            return read_questions(self.processor, messages, questions, options)
        messages = _chat(item, system)
        # a chat that ends with the beginning of an answer is continued, as in other pipelines
        continues = messages[-1]["role"] == "assistant"
        turn = {"add_generation_prompt": not continues, "continue_final_message": continues}
        return {"questions": [_last_question(messages)], "prompt": _encoded(self.processor, messages, options, **turn)}

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        """Yields the records of each input, where there are several."""
        # media are flat over a batch, which the default collation cannot join: a batch is a list of inputs here
        iterable = isinstance(inputs, types.GeneratorType)
        dataset = (PipelineIterator if iterable else PipelineDataset)(inputs, self.preprocess, preprocess_params)
        loader = DataLoader(dataset, num_workers=0 if iterable else num_workers, batch_size=batch_size, collate_fn=list)
        for batch in loader:
            for outputs in self.forward({"batch": batch}, **forward_params)["outputs"]:
                yield self.postprocess(outputs, **postprocess_params)

    def _forward(  # type: ignore[override]
        self, model_inputs: dict[str, Any], **options: Any
    ) -> dict[str, Any]:
        if "batch" not in model_inputs:
            return self._answer(model_inputs, options)
        items = model_inputs["batch"]
        single = [item for item in items if len(item["questions"]) == 1]
        if len(single) < 2:
            return {"outputs": [self._answer(item, options) for item in items]}
        joined = iter(self._answer_together(single, options))
        outputs = [next(joined) if len(item["questions"]) == 1 else self._answer(item, options) for item in items]
        return {"outputs": outputs}

    def _answer_together(self, items: list[dict[str, Any]], options: dict[str, Any]) -> list[dict[str, Any]]:
        """Answers inputs with a question each as one batch."""
        batch = self.processor.join([item["prompt"] for item in items])
        batch = self._ensure_tensor_on_device(dict(batch), self.device)
        lengths = batch["attention_mask"].sum(-1).tolist()
        sequences = new_ids(self.model, self.processor, batch, options)
        per_item = sequences.split(len(sequences) // len(items))
        return [
            {"questions": item["questions"], "new_ids": [list(ids)], "prompt_tokens": [length]}
            for item, ids, length in zip(items, per_item, lengths, strict=True)
        ]

    def _answer(self, item: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Answers all questions of one input, whose media are encoded once."""
        questions = item["questions"]
        if len(questions) == 1:
            sequences = [new_ids(self.model, self.processor, item["prompt"], options)]
            prompts = [item["prompt"]["input_ids"]]
        else:
            if options.get("streamer") is not None:
                raise ValueError("A `streamer` ends with the first answer: ask one question at a time.")
            session = Session.from_prompt(self.model, self.processor, item["messages"], item["prompt"])
            prompts = [session.prompt_ids(question) for question in questions]
            for prompt in prompts:
                session.check_room(prompt, options)  # before the first is answered
            sequences = [session.generate(prompt, **options) for prompt in prompts]
        lengths = [prompt.shape[1] for prompt in prompts]
        return {"questions": questions, "new_ids": [list(ids) for ids in sequences], "prompt_tokens": lengths}

    def postprocess(  # type: ignore[override]
        self, model_outputs: dict[str, Any], return_tensors: bool = False, return_token_counts: bool = False
    ) -> list[dict[str, Any]]:
        """Makes a record of each answer to one input."""
        records = []
        for question, sequences, prompt_tokens in zip(
            model_outputs["questions"], model_outputs["new_ids"], model_outputs["prompt_tokens"], strict=True
        ):
            for ids in sequences:
                record = {"question": question}
                if return_tensors:
                    record["generated_token_ids"] = ids
                else:
                    record["answer"] = self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
                if return_token_counts:
                    padding = self.processor.tokenizer.pad_token_id
                    record.update(prompt_tokens=prompt_tokens, new_tokens=int((ids != padding).sum()))
                records.append(record)
        return records


class _Item:
    """One input; hides from the base class what looks like a list of inputs, such as a chat."""

    def __init__(self, value: Any):
        self.value = value


class _Rows(Dataset):
    """Rows of anything that can be indexed: a `datasets.Dataset`, a `KeyDataset`, a column."""

    def __init__(self, rows: Any):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> _Item:
        return _Item(self.rows[index])


def _is_chat(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], Mapping) and "role" in value[0]


def _is_one(value: Any) -> bool:
    return isinstance(value, (str, Mapping)) or _is_chat(value)


def _with_keywords(inputs: Any, keys: dict[str, Any]) -> Any:
    """The input of a call, with what was given as keywords in it.

    Raises:
        TypeError: for an input that is a medium, or of no known type.
        ValueError: when there is nothing to ask, or something is given twice.
    """
    is_many = isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")
    if isinstance(inputs, (bytes, os.PathLike)) or not (inputs is None or _is_one(inputs) or is_many):
        raise TypeError(
            f"Cannot take a {type(inputs).__name__} as input: give a question, a dictionary or a list, and media "
            "as `image=`, `video=` or `audio=`."
        )
    if inputs is None:
        if not keys:
            raise ValueError("Nothing to ask: give `question` and media, a dictionary, a chat or a list of them.")
        return keys
    if not keys:
        return inputs
    if not _is_one(inputs):
        raise ValueError(f"{sorted(keys)} cannot be combined with several inputs: put them into each of them.")
    item = _as_item(inputs)
    if twice := sorted(item.keys() & {PLURALS.get(name, name) for name in keys}):
        raise ValueError(
            f"{twice} given twice, in the input and as keywords. A string alone is a question: give media as "
            "`image=`, `video=` or `audio=`."
        )
    return {**item, **keys}


def _as_item(value: Any) -> dict[str, Any]:
    """A question, chat or dictionary in the form of a dictionary with singular keys."""
    if isinstance(value, str):
        return {"question": value}
    if _is_chat(value):
        return {"messages": value}
    if not isinstance(value, Mapping):
        raise TypeError(f"An input must be a question, a chat or a dictionary, got {type(value).__name__}.")
    value = {name: medium for name, medium in value.items() if medium is not None}
    check_plurals(value)
    item = {PLURALS.get(name, name): medium for name, medium in value.items()}
    if unknown := sorted(item.keys() - INPUT_KEYS):
        raise ValueError(
            f"An input has the unknown keys {unknown}; known are {INPUT_KEYS}: leave out what is not asked."
        )
    return item


def _merged(options: dict[str, Any], grouped: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `generate` that were given as arguments, and those that were given in a group."""
    if twice := sorted(options.keys() & grouped.keys()):
        raise ValueError(f"{twice} are given twice, as arguments and in `generate_kwargs`: give them once.")
    return {**options, **grouped}


# -- Inputs as the model reads them


def read_questions(processor, messages: list[dict], questions: list[str], options: Mapping[str, Any]) -> dict[str, Any]:
    """Reads what [`OmniQAPipeline.forward`] takes: questions about the same media.

    Args:
        messages: the conversation up to the questions, which holds the media.
        options: of a call of the processor.
    """
    if len(questions) == 1:
        messages = with_question(messages, questions[0])
        return {"questions": questions, "prompt": _encoded(processor, messages, options, add_generation_prompt=True)}
    prompt = read_prompt(processor, messages, options)
    return {"questions": questions, "prompt": prompt, "messages": without_media(messages)}


def _encoded(processor, messages: list[dict], options: Mapping[str, Any], **turn: bool) -> dict[str, Any]:
    """The prompt of one conversation; `turn` says whether a turn of the assistant begins or goes on."""
    inputs = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=dict(options), **turn
    )
    return dict(inputs)


def _chat(item: dict[str, Any], system: Any) -> list[dict]:
    """The conversation of an input that holds its media and its question itself."""
    if any(name in item for name in (*MODALITIES, "question")):
        raise ValueError("A chat holds its media and its question itself: give `messages` alone.")
    messages = check_roles(item["messages"])
    return messages if system is None else with_system(messages, system)


def _media_and_questions(item: dict[str, Any], system: Any) -> tuple[list[dict], list[str]]:
    """The conversation up to the questions of an input, and these."""
    questions = item.get("question")
    if questions is None:
        raise ValueError(f"An input has no `question`: got the keys {sorted(item)}.")
    questions = [questions] if isinstance(questions, str) else questions
    if not isinstance(questions, (list, tuple)) or not all(isinstance(question, str) for question in questions):
        raise TypeError(f"`question` must be a string or a list of strings, got {questions!r}.")
    if not questions:
        raise ValueError("`question` is an empty list: give at least one question.")
    content = media_content({name: medium for name, medium in item.items() if name in MODALITIES})
    messages = [{"role": "user", "content": content}]
    return messages if system is None else with_system(messages, system), list(questions)


def _last_question(messages: list[dict]) -> str:
    """The words of the user's last message."""
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            if isinstance(content, str):
                return content
            return "".join(part for part in map(parse_part, content) if isinstance(part, str))
    return ""
