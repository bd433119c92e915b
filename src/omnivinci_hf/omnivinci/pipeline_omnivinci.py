"""`pipeline("omni-qa")`: questions about images, videos and sounds."""

import copy
import inspect
import os
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from transformers import DynamicCache, GenerationConfig, Pipeline
from transformers.pipelines.pt_utils import PipelineDataset, PipelineIterator

from .configuration_omnivinci import MEDIA_INPUTS
from .conversation_omnivinci import read_part
from .generation_omnivinci import check_context, context_length
from .media_forms_omnivinci import flatten
from .model_card_omnivinci import ModelCardMixin
from .options_omnivinci import refuse_unknown
from .outputs_omnivinci import CACHE


MEDIA = ("image", "video", "audio")
ROLES = ("system", "user", "assistant")
PLURALS = {"images": "image", "videos": "video", "audios": "audio"}
DEFAULT_MAX_NEW_TOKENS = 256
PUSH_OPTIONS = (
    *("repo_id", "commit_message", "commit_description", "private", "token"),
    *("revision", "create_pr", "tags"),
)
OWN_OPTIONS = (
    *("system", "processor_kwargs", "generate_kwargs", "return_tensors", "return_token_counts"),
    *("batch_size", "num_workers"),
)
OF_GENERATE = ("tokenizer", "assistant_tokenizer", "trust_remote_code")  # beside its named arguments
# the usual values of settings of `generate` that otherwise need ids: what they propose follows from these, and given
# embeddings would turn the cache on
FROM_IDS = {
    "use_cache": (None, True),
    "assistant_model": (None,),
    "assistant_early_exit": (None,),
    "prompt_lookup_num_tokens": (None,),
    "custom_generate": (None,),
}
# the usual values of settings under which the cache of a shared prefix can be handed on from question to question
UNSHARED = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "cache_implementation": (None,),
    **FROM_IDS,
}


class OmniQAPipeline(ModelCardMixin, Pipeline):
    r"""
    Answers questions about any mixture of images, videos and sounds.

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

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _pipeline_calls_generate = False  # the options of `generate` are passed on as they are

    def __init__(self, model, *args, processor=None, **kwargs):
        bare = model.get_base_model() if hasattr(model, "get_base_model") else model
        if not hasattr(bare, "generate") or not hasattr(getattr(bare, "model", None), "embed_inputs"):
            raise TypeError(
                f"`model` must be an OmniVinciForConditionalGeneration, got a {type(bare).__name__}: load it with "
                "`AutoModel.from_pretrained`."
            )
        if not hasattr(processor, "call_option_names"):
            raise TypeError(
                f"`processor` must be an OmniVinciProcessor, got a {type(processor).__name__}: load it with "
                "`AutoProcessor.from_pretrained`."
            )
        super().__init__(model, *args, processor=processor, **kwargs)

    def __call__(self, inputs: Any = None, **kwargs):
        """
        Args:
            inputs: a question, a dictionary, a chat (list of messages), a list of any of these, a data set of them or
                a generator. Or none, and the keys of one dictionary as keywords: `question` (`str` or `list[str]`),
                `image`, `video`, `audio` (one medium or a list of them, each a path, bytes, array, tensor, ...).
        """
        keys = {name: kwargs.pop(name) for name in list(kwargs) if name in (*MEDIA, *PLURALS, "question", "messages")}
        is_many = isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")
        if isinstance(inputs, (bytes, os.PathLike)) or not (inputs is None or _is_one(inputs) or is_many):
            raise TypeError(
                f"Cannot take a {type(inputs).__name__} as input: give a question, a dictionary or a list, and media "
                "as `image=`, `video=` or `audio=`."
            )
        if inputs is None:
            if not keys:
                raise ValueError("Nothing to ask: give `question` and media, a dictionary, a chat or a list of them.")
            inputs = keys
        elif keys and not _is_one(inputs):
            raise ValueError(f"{sorted(keys)} cannot be combined with several inputs: put them into each of them.")
        elif keys:
            inputs = _as_item(inputs)
            if twice := sorted(inputs.keys() & {PLURALS.get(name, name) for name in keys}):
                raise ValueError(
                    f"{twice} given twice, in the input and as keywords. A string alone is a question: give media as "
                    "`image=`, `video=` or `audio=`."
                )
            inputs = {**inputs, **keys}
        if isinstance(inputs, list) and not inputs:
            return []
        if _is_one(inputs):
            return super().__call__(_Item(inputs), **kwargs)
        if isinstance(inputs, (list, tuple)):
            return super().__call__([_Item(item) for item in inputs], **kwargs)
        if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
            return super().__call__(_Rows(inputs), **kwargs)
        # whatever else can be gone through, data sets without a length among it, is streamed
        return super().__call__((_Item(item) for item in inputs), **kwargs)

    def save_pretrained(self, save_directory, push_to_hub: bool = False, **kwargs):
        """Model, processor and the code of both with this pipeline's; `kwargs` go to the model's `save_pretrained`.

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
        doors = (("as an argument", flat), ("in `processor_kwargs`", processor_kwargs or {}))
        self.processor.resolve_options(*doors)
        preprocess = {**flat, **(processor_kwargs or {})}
        if system is not None:
            preprocess["system"] = system
        forward = self._checked_generate_options(options, generate_kwargs or {}, known)
        postprocess = {"return_tensors": return_tensors, "return_token_counts": return_token_counts}
        return preprocess, forward, {name: value for name, value in postprocess.items() if value is not None}

    def _checked_generate_options(self, flat: dict, grouped: Mapping[str, Any], known: set[str]) -> dict[str, Any]:
        """What `generate` will be given, with errors for what it would refuse only after all media are read."""
        if twice := sorted(flat.keys() & grouped.keys()):
            raise ValueError(f"{twice} are given twice, as arguments and in `generate_kwargs`: give them once.")
        options = {**flat, **grouped}
        if options.get("custom_generate") is None:  # else that knows what it takes
            model = self._bare_model
            taken = (inspect.signature(function).parameters for function in (model.generate, model.forward))
            names = {*OWN_OPTIONS, *OF_GENERATE, *vars(GenerationConfig())}.union(known, *taken)
            refuse_unknown("This pipeline", options, names, ValueError)
        return options

    def preprocess(self, inputs: Any, system: str | None = None, **options) -> dict[str, Any]:
        item = _as_item(inputs.value if isinstance(inputs, _Item) else inputs)
        conversations, questions = _conversations(item, system)
        options.update({name: item[name] for name in ("video_metadata", "sampling_rate") if name in item})
        # a chat that ends with the beginning of an answer is continued, as in other pipelines
        continues = conversations[0][-1]["role"] == "assistant"
        turn = {"add_generation_prompt": not continues, "continue_final_message": continues}
        return encode_conversations(self.processor, conversations, questions, options, **turn)

    def get_iterator(self, inputs, num_workers, batch_size, preprocess_params, forward_params, postprocess_params):
        # media are flat over a batch, which the default collation cannot join: a batch is a list of inputs here
        iterable = isinstance(inputs, types.GeneratorType)
        dataset = (PipelineIterator if iterable else PipelineDataset)(inputs, self.preprocess, preprocess_params)
        loader = DataLoader(dataset, num_workers=0 if iterable else num_workers, batch_size=batch_size, collate_fn=list)
        for batch in loader:
            for outputs in self.forward({"batch": batch}, **forward_params)["outputs"]:
                yield self.postprocess(outputs, **postprocess_params)

    def _forward(self, model_inputs: dict[str, Any], **options) -> dict[str, Any]:
        if "batch" not in model_inputs:
            return self._answer_all(model_inputs, options)
        items = model_inputs["batch"]
        single = [index for index, item in enumerate(items) if len(item["suffixes"]) == 1]
        outputs: list[Any] = [None] * len(items)
        if len(single) > 1:
            joined = self.processor.join([items[index]["encoded"] for index in single])
            joined = self._ensure_tensor_on_device(dict(joined), self.device)
            rows = self._new_ids(joined, options)
            per_item = len(rows) // len(single)
            for order, index in enumerate(single):
                counts = [int(joined["attention_mask"][order].sum())]
                new_ids = [list(rows[order * per_item : (order + 1) * per_item])]
                outputs[index] = {"questions": items[index]["questions"], "new_ids": new_ids, "prompt_tokens": counts}
        for index, item in enumerate(items):
            if outputs[index] is None:
                outputs[index] = self._answer_all(item, options)
        return {"outputs": outputs}

    def _answer_all(self, item: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
        """Every question about the media of one input; media are encoded once."""
        encoded, suffixes = dict(item["encoded"]), item["suffixes"]
        if len(suffixes) > 1 and options.get("streamer") is not None:
            raise ValueError("A `streamer` ends with the first answer: ask one question at a time.")
        if len(suffixes) == 1:
            new_ids = [list(self._new_ids(encoded, options))]
            counts = [encoded["input_ids"].shape[1]]
            return {"questions": item["questions"], "new_ids": new_ids, "prompt_tokens": counts}
        ids, mask = encoded.pop("input_ids"), encoded.pop("attention_mask")
        encoded = {name: encoded[name] for name in encoded if name in MEDIA_INPUTS}
        ids = ids[mask.bool()][None]  # without padding
        length = ids.shape[1] - len(suffixes[0])
        if length < 0 or ids[0, length:].tolist() != suffixes[0]:
            raise ValueError("Several questions cannot be asked about a truncated prompt: leave `truncation` out.")
        prefix = ids[:, :length]
        rows = [torch.cat((prefix, ids.new_tensor([suffix])), dim=1) for suffix in suffixes]
        model, new_ids = self._bare_model, []
        longest = max(row.shape[1] for row in rows)
        options = self._generate_options(options, longest)
        settings = self._settings(options)
        check_context(longest, self._context_length, settings.get("max_new_tokens") or 0)
        if any(settings.get(name) not in usual for name, usual in FROM_IDS.items()):
            new_ids = [list(self._new_ids({"input_ids": row, **encoded}, options)) for row in rows]
        elif length and self._shares_cache(options):
            cache = DynamicCache(config=model.config.get_text_config())
            embeds = model.model.embed_inputs(prefix, **encoded)
            model.model(inputs_embeds=embeds, **{CACHE: cache}, use_cache=True)
            for row in rows:
                new_ids.append(list(self._new_ids({"input_ids": row, CACHE: cache}, options)))
                cache.crop(length - cache.get_seq_length())  # negative: so many tokens are taken off
        else:
            embeds = model.model.embed_inputs(prefix, **encoded)
            for row in rows:
                question = model.get_input_embeddings()(row[:, length:])
                given = {"input_ids": row, "inputs_embeds": torch.cat((embeds, question), dim=1)}
                new_ids.append(list(self._new_ids(given, options)))
        counts = [row.shape[1] for row in rows]
        return {"questions": item["questions"], "new_ids": new_ids, "prompt_tokens": counts}

    @property
    def _bare_model(self):
        """The model itself, where adapters of PEFT are wrapped around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def _settings(self, options: dict[str, Any]) -> dict[str, Any]:
        """What `generate` will go by: the checkpoint's settings, under those of a given config, under the call's."""
        given = options.get("generation_config")
        return {
            **self.model.generation_config.to_diff_dict(),
            **({} if given is None else given.to_diff_dict()),
            **options,
        }

    @property
    def _context_length(self) -> int:
        return context_length(self._bare_model.config.get_text_config())

    def _generate_options(self, options: dict[str, Any], num_tokens: int) -> dict[str, Any]:
        """With an end, where nobody has set one: by default an answer ends where the context does."""
        options, settings = dict(options), self._settings(options)
        if settings.get("stop_strings") is not None:
            options.setdefault("tokenizer", self.processor.tokenizer)
        if settings.get("max_new_tokens") is None and settings.get("max_length") is None:
            num_new = max(1, min(DEFAULT_MAX_NEW_TOKENS, self._context_length - num_tokens))
            if (given := options.get("generation_config")) is None:
                options["max_new_tokens"] = num_new
            else:
                options["generation_config"] = copy.deepcopy(given)
                options["generation_config"].max_new_tokens = num_new
        return options

    def _shares_cache(self, options: dict[str, Any]) -> bool:
        settings, text_config = self._settings(options), self._bare_model.config.get_text_config()
        if "sliding_attention" in (text_config.layer_types or ()):
            return False  # what slid out of the cache does not come back
        return all(settings.get(name) in shared for name, shared in UNSHARED.items())

    def _new_ids(self, inputs: dict[str, Any], options: dict[str, Any]) -> torch.Tensor:
        if "attention_mask" not in inputs:
            inputs = {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}
        options = self._generate_options(options, int(inputs["attention_mask"].sum(-1).max()))
        output = self.model.generate(**inputs, **options)
        output = output if isinstance(output, torch.Tensor) else output.sequences
        return output[:, inputs["input_ids"].shape[1] :]

    def postprocess(
        self, model_outputs: dict[str, Any], return_tensors: bool = False, return_token_counts: bool = False
    ) -> list[dict[str, Any]]:
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


def _as_item(value: Any) -> dict[str, Any]:
    """A question, chat or dictionary in the form of a dictionary with singular keys."""
    if isinstance(value, str):
        return {"question": value}
    if _is_chat(value):
        return {"messages": value}
    if not isinstance(value, Mapping):
        raise TypeError(f"An input must be a question, a chat or a dictionary, got {type(value).__name__}.")
    value = {name: medium for name, medium in value.items() if medium is not None}
    if both := sorted(name for name, singular in PLURALS.items() if name in value and singular in value):
        raise ValueError(f"An input has {both} beside the singular of it: put all media of a kind into one list.")
    item = {PLURALS.get(name, name): medium for name, medium in value.items()}
    known = (*MEDIA, "question", "messages", "video_metadata", "sampling_rate")
    unknown = sorted(set(item) - set(known))
    if unknown:
        raise ValueError(f"An input has the unknown keys {unknown}; known are {known}: leave out what is not asked.")
    return item


def encode_conversations(
    processor, conversations: list[list[dict]], questions: list[str], options: Mapping[str, Any], **turn: bool
) -> dict[str, Any]:
    """What [`OmniQAPipeline.forward`] takes, of conversations about the same media, each with a question.

    Args:
        options: of a call of the processor.
        turn: whether a turn of the assistant begins (the default) or goes on, as `apply_chat_template` takes it.
    """
    turn = turn or {"add_generation_prompt": True}
    encoded = processor.apply_chat_template(
        conversations[0], tokenize=True, return_dict=True, return_tensors="pt", processor_kwargs=dict(options), **turn
    )
    prompts = processor.apply_chat_template(conversations, **turn)
    suffixes = [processor.words_after_media(prompt) for prompt in prompts]
    return {"encoded": encoded, "suffixes": suffixes, "questions": questions}


def _conversations(item: dict[str, Any], system: str | None) -> tuple[list[list[dict]], list[str]]:
    """One conversation per question, all with the same media, and the questions."""
    if not isinstance(system, (str, list, tuple, types.NoneType)):
        raise TypeError(f"`system` must be a string, or a list of content parts, got {type(system).__name__}.")
    head = [] if system is None else [{"role": "system", "content": system}]
    if "messages" in item:
        if any(name in item for name in (*MEDIA, "question")):
            raise ValueError("A chat holds its media and its question itself: give `messages` alone.")
        messages = _checked_chat(item["messages"])
        if head and messages[0]["role"] == "system":
            raise ValueError("The chat has a system message already: leave `system` out.")
        return [head + messages], [_last_words(messages)]
    questions = item.get("question")
    if questions is None:
        raise ValueError(f"An input has no `question`: got the keys {sorted(item)}.")
    questions = [questions] if isinstance(questions, str) else questions
    if not isinstance(questions, (list, tuple)) or not all(isinstance(question, str) for question in questions):
        raise TypeError(f"`question` must be a string or a list of strings, got {questions!r}.")
    questions = list(questions)
    if not questions:
        raise ValueError("`question` is an empty list: give at least one question.")
    content = [{"type": kind, kind: medium} for kind in item if kind in MEDIA for medium in flatten(kind, item[kind])]
    return [
        [*head, {"role": "user", "content": [*content, {"type": "text", "text": question}]}] for question in questions
    ], questions


def _checked_chat(messages: Any) -> list[dict]:
    for message in messages if _is_chat(messages) else [messages]:
        if not isinstance(message, Mapping) or "content" not in message or message.get("role") not in ROLES:
            raise ValueError(
                f"A chat must be a list of messages with `role` (one of {ROLES}) and `content`, got {message!r}."
            )
    return list(messages)


def _last_words(messages: list[dict]) -> str:
    for message in reversed(messages):
        if message["role"] == "user":
            content = message["content"]
            if isinstance(content, str):
                return content
            return "".join(part for part in map(read_part, content) if isinstance(part, str))
    return ""
