"""This module asks many questions about the same media: they are read and encoded once, and their cache is kept."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import Event, Lock, Thread, current_thread
from typing import Any

import torch
from transformers import DynamicCache, StoppingCriteriaList, TextIteratorStreamer

from .configuration_omnivinci import MODALITIES
from .conversation_omnivinci import ROLES, parse_part
from .generation_omnivinci import (
    bare_model,
    check_context,
    check_generate_options,
    check_parts,
    complete_options,
    context_length,
    generate_settings,
    new_ids,
)
from .media_sources_omnivinci import flatten
from .options_omnivinci import GROUPS, option_checks
from .outputs_omnivinci import CACHE, MEDIA_INPUTS


PLURALS = {"images": "image", "videos": "video", "audios": "audio"}
OUTPUT_OPTIONS = option_checks("output")
# options of the text that change nothing of a single prompt, or only what stands before a question
UNSHARED_TEXT_OPTIONS = ("add_special_tokens", "pad_to_multiple_of", "padding", "padding_side")
# `generate` reads the ids of the whole prompt, media tensors beside them, unless these settings have these values: what
# is proposed to it follows from the ids, and given embeddings would turn the cache on
VALUES_WITHOUT_IDS: dict[str, tuple] = {
    "use_cache": (None, True),
    "assistant_model": (None,),
    "assistant_early_exit": (None,),
    "prompt_lookup_num_tokens": (None,),
    "custom_generate": (None,),
}
# the cache of a shared beginning is handed on from question to question where these settings have these values
VALUES_WITH_SHARED_CACHE: dict[str, tuple] = {
    "num_beams": (None, 1),
    "num_return_sequences": (None, 1),
    "cache_implementation": (None,),
    **VALUES_WITHOUT_IDS,
}


class Session:
    r"""
    Answers many questions about the same media, which are read and encoded once.

    ```python
    from omnivinci_hf import Session

    session = Session(model, processor, video="clip.mp4", num_frames=8)
    answer = session.ask("What happens?", max_new_tokens=128)
    for piece in session.stream("Who speaks?", max_new_tokens=128):
        print(piece, end="", flush=True)
    ```

    The media are read here, and encoded with the first question. Their keys and values stay in the cache; those of a
    question and its answer are taken off again, so that an answer does not depend on what was asked before. With
    `keep=True` they stay, for a question that follows up on them:

    ```python
    session.ask("Who speaks first?", keep=True, max_new_tokens=128)
    session.ask("And what does that person say?", keep=True, max_new_tokens=128)
    session.reset()  # as if these two had not been asked
    ```

    Answers are those of `pipeline("omni-qa")`. Every option of `generate` can be given with a question. Under those
    that cannot share a cache (beams, several sequences, static caches, layers with sliding attention) the language
    model reads the prompt anew for each question, and the media are still encoded once; with assisted decoding, prompt
    lookup or `use_cache=False` the media are encoded for each question.

    A session gives one answer at a time: until a streamed answer is read to its end or closed, other questions are
    errors, those of other threads among them. What is encoded stays as it is when weights of the model or its active
    adapter change: call `reset(encode_again=True)` then.

    Args:
        model ([`OmniVinciForConditionalGeneration`]): or one with adapters of PEFT around it.
        processor ([`OmniVinciProcessor`]).
        messages (`list[dict]`, *optional*): the beginning of a conversation, in place of media. A question continues
            its last message, if that is the user's, or is a new turn.
        system (`str`, *optional*): the system prompt.
        keep_media (`bool`, defaults to True): whether pixels and audio features stay in the memory of the CPU once they
            are encoded. Without them the media cannot be encoded again: assisted decoding, prompt lookup,
            `use_cache=False` and `reset(encode_again=True)` are errors then.
        media_and_options: `image`, `video` and `audio`, each one medium or a list of them (a path, bytes, array,
            tensor, ...), in the order in which the model shall see them; and options of the processor for them
            (`num_frames`, `load_audio_from_video`, `video_metadata`, `sampling_rate`, ...).

    Raises:
        ValueError: without media and `messages`, with both, or when the context has no room for them.
        TypeError: for an option that is unknown or that a session cannot obey, and for a model or a processor of
            another class.
        MediaError: when a medium cannot be read.
    """

    def __init__(
        self,
        model,
        processor,
        *,
        messages: list[dict] | None = None,
        system: str | None = None,
        keep_media: bool = True,
        **media_and_options: Any,
    ):
        check_parts(model, processor)
        refuse_disobeyed("A session", media_and_options, (*OUTPUT_OPTIONS, *UNSHARED_TEXT_OPTIONS))
        names = [name for name in media_and_options if name in MODALITIES or name in PLURALS]
        content = media_content({name: media_and_options.pop(name) for name in names})
        if not content and not messages:
            raise ValueError(
                "A session has nothing to ask about: give media as `image=`, `video=` or `audio=`, or `messages`."
            )
        if content and messages:
            raise ValueError(f"Messages hold their media themselves: leave {names} or `messages` out.")
        messages = check_roles(messages) if messages else [{"role": "user", "content": content}]
        if system is not None:
            messages = with_system(messages, system)
        self._start(model, processor, messages, read_prompt(processor, messages, media_and_options), keep_media)

    @classmethod
    def from_prompt(cls, model, processor, messages: list[dict], prompt: Mapping[str, torch.Tensor]) -> "Session":
        """Makes a session about media that were read before, by [`read_prompt`] of the same messages."""
        session = cls.__new__(cls)
        session._start(model, processor, messages, prompt)
        return session

    def _start(
        self, model, processor, messages: list[dict], prompt: Mapping[str, Any], keep_media: bool = True
    ) -> None:
        self.model, self.processor = model, processor
        self._prompt, self._keep_media, self._has_media = dict(prompt), keep_media, True
        self._busy = Lock()  # held while an answer is generated
        self._messages = without_media(messages)
        self._embeds: torch.Tensor | None = None
        self._cache: DynamicCache | None = None
        self._cached_ids = self._input_ids = self._prompt["input_ids"]
        self._first_messages = self._messages
        check_context(self.num_tokens, self._context_length)

    @property
    def num_tokens(self) -> int:
        """How many tokens stand before a question: those of the media, of the words around them, of kept turns."""
        return self._input_ids.shape[1]

    def ask(self, question: str, *, keep: bool = False, **generate_options: Any) -> str:
        """Answers a question.

        Args:
            keep: whether question and answer become part of the conversation, for questions that follow up on them.
            generate_options: of `generate`; `max_new_tokens` is 256 by default, or what the context has room for.

        Raises:
            ValueError: when the context has no room for the answer, or for options that ask for several answers.
            TypeError: for an unknown option, or a question that is no string.
            RuntimeError: while another answer is being generated.
        """
        with self._one_at_a_time():
            prompt_ids = self._checked_prompt(question, generate_options)
            answer = self._decode(self._generate(prompt_ids, generate_options))
            if keep:
                self._keep(question, answer)
        return answer

    def stream(self, question: str, *, keep: bool = False, **generate_options: Any) -> Iterator[str]:
        """As [`~Session.ask`], but yields the answer piece by piece, while it is generated.

        The generation begins with the first piece that is read. Whoever stops in between ends it, by `close()` or by
        letting go of the iterator; an answer that was not read to its end is not kept.
        """
        self._checked_prompt(question, generate_options)
        if generate_options.get("streamer") is not None:
            raise ValueError("`stream` has a streamer of its own: leave `streamer` out, or call `ask`.")
        return self._stream(question, keep, generate_options)

    def reset(self, *, encode_again: bool = False) -> None:
        """Takes kept turns off the conversation again.

        Args:
            encode_again: whether the next question encodes the media again, with the weights and the adapter that the
                model has then; by default they stay encoded.

        Raises:
            ValueError: when the media shall be encoded again, and were let go.
            RuntimeError: while an answer is being generated.
        """
        with self._one_at_a_time():
            if encode_again:
                self._check_media("`reset(encode_again=True)`")
                self._embeds = self._cache = None
            self._messages, self._input_ids = self._first_messages, self._prompt["input_ids"]

    # -- questions as ids ----------------------------------------------------------------------------------------

    def prompt_ids(self, question: str) -> torch.Tensor:
        """Encodes the whole prompt `(1, seq_len)` that ends with a question, placeholders of media included."""
        words = words_of(self.processor, self._messages, question)
        first = self._prompt["input_ids"][:, : self._prompt["media_length"]]
        return torch.cat((first, first.new_tensor([words])), dim=1)

    def generate(self, input_ids: torch.Tensor, **generate_options: Any) -> torch.Tensor:
        """Continues a prompt of [`~Session.prompt_ids`].

        Args:
            input_ids (`torch.LongTensor` of shape `(1, seq_len)`).
            generate_options: as in [`~Session.ask`]; also those that ask for several sequences.

        Returns:
            `torch.LongTensor` of shape `(num_sequences, num_new_tokens)`: the ids of the answers.
        """
        with self._one_at_a_time():
            return self._generate(input_ids, generate_options)

    @torch.no_grad()
    def _generate(self, input_ids: torch.Tensor, generate_options: Mapping[str, Any]) -> torch.Tensor:
        self.check_room(input_ids, generate_options)
        settings = generate_settings(self.model, generate_options)
        input_ids = input_ids.to(bare_model(self.model).device)
        if not self.num_tokens or _differs(settings, VALUES_WITHOUT_IDS):
            names = [name for name, usual in VALUES_WITHOUT_IDS.items() if settings.get(name) not in usual]
            self._check_media(f"An answer with {names}")
            inputs = {"input_ids": input_ids, **self._media()}
        elif self._is_sliding or _differs(settings, VALUES_WITH_SHARED_CACHE):
            inputs = {"input_ids": input_ids, "inputs_embeds": self._embeds_of(input_ids)}
        else:
            return self._generate_from_cache(input_ids, generate_options)
        return new_ids(self.model, self.processor, inputs, generate_options)

    def check_room(self, input_ids: torch.Tensor, generate_options: Mapping[str, Any]) -> None:
        """Raises ValueError when the context has no room for a prompt and the new tokens that are asked for."""
        length = input_ids.shape[1]
        options = complete_options(self.model, self.processor, generate_options, length)
        num_new = generate_settings(self.model, options).get("max_new_tokens") or 0
        check_context(length, self._context_length, num_new)

    def _checked_prompt(self, question: str, generate_options: Mapping[str, Any]) -> torch.Tensor:
        """The prompt of a question, once the options are known and ask for one answer."""
        if not isinstance(question, str):
            raise TypeError(f"`question` must be a string, got {question!r}.")
        processor_options = self.processor.call_option_names - {"max_length"}
        if misplaced := sorted(processor_options & generate_options.keys()):
            raise TypeError(f"{misplaced} say how media are read: give them to `Session(...)`, which reads them once.")
        check_generate_options("A question of a session", self.model, generate_options, error=TypeError)
        num_sequences = generate_settings(self.model, generate_options).get("num_return_sequences") or 1
        if num_sequences > 1:
            raise ValueError(
                f"A question of a session gets one answer, but `num_return_sequences`={num_sequences} asks for more: "
                'use `pipeline("omni-qa")`.'
            )
        prompt_ids = self.prompt_ids(question)
        self.check_room(prompt_ids, generate_options)
        return prompt_ids

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        self._begin()
        try:
            yield
        finally:
            self._busy.release()

    def _begin(self) -> None:
        """Takes the session for one answer, until `_busy` is released."""
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                "A session gives one answer at a time, and a streamed answer is still being generated, or one in "
                "another thread: read it to its end or close it."
            )

    def _stream(self, question: str, keep: bool, options: dict[str, Any]) -> Iterator[str]:
        self._begin()
        streamer = TextIteratorStreamer(self.processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        is_closed, is_orphaned, outcome = Event(), Event(), {}

        def stop(input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), is_closed.is_set(), dtype=torch.bool, device=input_ids.device)

        def run():
            criteria = StoppingCriteriaList([*(options.get("stopping_criteria") or ()), stop])
            try:
                outcome["ids"] = self._generate(
                    prompt_ids, {**options, "streamer": streamer, "stopping_criteria": criteria}
                )
            except BaseException as error:  # it is raised where the pieces are read
                outcome["error"] = error
                streamer.on_finalized_text("", stream_end=True)
            finally:
                if is_orphaned.is_set():
                    self._busy.release()

        thread = Thread(target=run)
        try:
            prompt_ids = self.prompt_ids(question)
            thread.start()
            try:
                yield from (piece for piece in streamer if piece)
            finally:
                is_closed.set()
                if thread is current_thread():  # garbage collection closes a stream in whichever thread it runs
                    is_orphaned.set()
                else:
                    thread.join()
            if "error" in outcome:
                raise outcome["error"]
            if keep:
                self._keep(question, self._decode(outcome["ids"]))
        finally:
            if not is_orphaned.is_set():
                self._busy.release()

    def _decode(self, ids: torch.Tensor) -> str:
        return self.processor.tokenizer.decode(ids[0], skip_special_tokens=True).strip()

    def _keep(self, question: str, answer: str) -> None:
        turn = {"role": "assistant", "content": answer}
        self._messages = [*with_question(self._messages, question), turn]
        words = shared_words(self.processor, self._messages)
        first = self._prompt["input_ids"][:, : self._prompt["media_length"]]
        self._input_ids = torch.cat((first, first.new_tensor([words])), dim=1)

    # -- what is encoded once ------------------------------------------------------------------------------------

    @property
    def _context_length(self) -> int:
        return context_length(bare_model(self.model).config.get_text_config())

    @property
    def _is_sliding(self) -> bool:
        """Whether the cache forgets: what slid out of it does not come back."""
        return "sliding_attention" in (bare_model(self.model).config.get_text_config().layer_types or ())

    def _check_media(self, what: str) -> None:
        """Raises ValueError for what encodes the media again, when they were let go."""
        if not self._has_media:
            raise ValueError(
                f"{what} encodes the media again, but they were let go after the first time: make the session without "
                "`keep_media=False`."
            )

    def _media(self) -> dict[str, torch.Tensor]:
        device = bare_model(self.model).device
        return {name: self._prompt[name].to(device) for name in MEDIA_INPUTS if name in self._prompt}

    def _first_embeds(self) -> torch.Tensor:
        """Embeddings `(1, seq_len, hidden_size)` of the conversation's beginning, without kept turns."""
        if self._embeds is None:
            model = bare_model(self.model)
            self._embeds = model.model.embed_inputs(self._prompt["input_ids"].to(model.device), **self._media())
            if not self._keep_media:
                media = [self._prompt.pop(name) for name in MEDIA_INPUTS if name in self._prompt]
                self._has_media = not media
        return self._embeds

    def _embeds_of(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Embeddings `(1, seq_len, hidden_size)` of a whole prompt."""
        first = self._first_embeds()[:, : _shared_length(self._prompt["input_ids"], input_ids)]
        words = bare_model(self.model).get_input_embeddings()(input_ids[:, first.shape[1] :])
        return torch.cat((first, words.to(first.device)), dim=1)

    def _generate_from_cache(self, input_ids: torch.Tensor, options: Mapping[str, Any]) -> torch.Tensor:
        cache = self._filled_cache()
        # what is asked anew may begin as the question before did; the answer must not depend on that
        length = min(_shared_length(self._cached_ids, input_ids), self.num_tokens, input_ids.shape[1] - 1)
        cache.crop(length - cache.get_seq_length())  # negative: so many tokens are taken off
        self._cached_ids = input_ids[:, :length]
        try:
            answer = new_ids(self.model, self.processor, {"input_ids": input_ids, CACHE: cache}, options)
        except BaseException:
            self._cache = None  # some layers may hold more than others
            raise
        self._cached_ids = torch.cat((input_ids, answer), dim=1)[:, : cache.get_seq_length()]
        return answer

    def _filled_cache(self) -> DynamicCache:
        if self._cache is None:
            model, embeds = bare_model(self.model), self._first_embeds()
            cache = DynamicCache(config=model.config.get_text_config())
            model.model(inputs_embeds=embeds, **{CACHE: cache}, use_cache=True)
            self._cache, self._cached_ids = cache, self._prompt["input_ids"]
        return self._cache


def _differs(settings: Mapping[str, Any], values: Mapping[str, tuple]) -> bool:
    return any(settings.get(name) not in usual for name, usual in values.items())


def _shared_length(first: torch.Tensor, second: torch.Tensor) -> int:
    """How many ids two prompts `(1, seq_len)` have in common, from their beginning on."""
    length = min(first.shape[1], second.shape[1])
    differs = (first[0, :length].cpu() != second[0, :length].cpu()).nonzero()
    return int(differs[0]) if len(differs) else length


# -- Conversations that a question ends


def media_content(media: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Makes content parts of media that are given by their modality, one each or in lists.

    Raises:
        ValueError: when a modality is given in the singular and in the plural.
    """
    media = {name: medium for name, medium in media.items() if medium is not None}
    check_plurals(media)
    items = ((PLURALS.get(name, name), medium) for name, medium in media.items())
    return [{"type": modality, modality: medium} for modality, given in items for medium in flatten(modality, given)]


def check_plurals(names: Iterable[str]) -> None:
    """Raises ValueError when media of a modality are given in the singular and in the plural."""
    if both := sorted(name for name, singular in PLURALS.items() if name in names and singular in names):
        raise ValueError(f"An input has {both} beside the singular of it: put all media of a kind into one list.")


def check_roles(messages: Any) -> list[dict]:
    """Checks a conversation, and gives its messages as a list.

    Raises:
        ValueError: when it is none, or a message lacks its content or a known role.
    """
    is_chat = isinstance(messages, (list, tuple)) and bool(messages)
    for message in messages if is_chat else [messages]:
        if not isinstance(message, Mapping) or "content" not in message or message.get("role") not in ROLES:
            raise ValueError(
                f"A chat must be a list of messages with `role` (one of {ROLES}) and `content`, got {message!r}."
            )
    return list(messages)


def with_system(messages: list[dict], system: Any) -> list[dict]:
    """Puts a system prompt before a conversation.

    Raises:
        TypeError: when the system prompt is neither a string nor a list of content parts.
        ValueError: when the conversation has one already.
    """
    if not isinstance(system, (str, list, tuple)):
        raise TypeError(f"`system` must be a string, or a list of content parts, got {type(system).__name__}.")
    if messages and messages[0]["role"] == "system":
        raise ValueError("The chat has a system message already: leave `system` out.")
    return [{"role": "system", "content": system}, *messages]


def with_question(messages: list[dict], question: str) -> list[dict]:
    """Ends a conversation with a question: in the user's last message, or in a new one after an answer."""
    text = {"type": "text", "text": question}
    if not messages or messages[-1]["role"] != "user":
        return [*messages, {"role": "user", "content": [text]}]
    content = messages[-1].get("content") or []
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [*messages[:-1], {**messages[-1], "content": [*parts, text]}]


def without_media(messages: list[dict]) -> list[dict]:
    """Takes the media out of a conversation, which is rendered as before: a name stands for each of them."""
    return [{**message, "content": _without_media(message.get("content"))} for message in messages]


def _without_media(content: Any) -> Any:
    if not isinstance(content, (list, tuple)):
        return content
    parts = [parse_part(part) for part in content]
    return [
        {"type": "text", "text": part}
        if isinstance(part, str)
        else {"type": part.modality, part.modality: "read before"}
        for part in parts
    ]


def words_of(processor, messages: list[dict], question: str) -> list[int]:
    """Encodes what follows the last medium of a conversation that ends with a question."""
    prompt = processor.apply_chat_template(with_question(messages, question), add_generation_prompt=True)
    return processor.words_after_media(prompt)


def shared_words(processor, messages: list[dict]) -> list[int]:
    """Encodes what follows the last medium of a conversation, up to where a question will stand.

    Raises:
        ValueError: when the chat template has no place for the question behind the media.
    """
    one, other = (words_of(processor, messages, question) for question in ("A", "0"))
    if one == other:
        raise ValueError("The chat template must write the question behind the media, for several to share these.")
    pairs = enumerate(zip(one, other, strict=False))
    return one[: next((index for index, (left, right) in pairs if left != right), min(len(one), len(other)))]


def refuse_disobeyed(taker: str, options: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises TypeError for options of the processor that cannot be obeyed here, in groups of options too.

    Args:
        taker: who takes the options, in the words of the error.
        names: the options that it cannot obey.
    """
    groups = [options, *(options[name] for name in GROUPS if isinstance(options.get(name), Mapping))]
    if refused := sorted({name for name in names for group in groups if group.get(name) is not None}):
        raise TypeError(f"{taker} puts prompts together itself and cannot obey {refused}: leave them out.")


def read_prompt(processor, messages: list[dict], options: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the media of a conversation about which several questions will be asked.

    Args:
        messages: the conversation up to the first question, which continues its last message or follows it.
        options: of a call of the processor.

    Returns:
        `input_ids` `(1, num_tokens)` of what stands before a question, `media_length`, how many of them come before the
        end of the last medium, and tensors of the media.

    Raises:
        ValueError: when the prompt is truncated.
    """
    ended = with_question(messages, "A")
    inputs = processor.apply_chat_template(
        ended,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={**options, "return_attention_mask": True},
    )
    ids = inputs["input_ids"][inputs["attention_mask"].bool()][None]  # without padding
    bare = without_media(messages)
    words = words_of(processor, bare, "A")
    media_length = ids.shape[1] - len(words)
    if media_length < 0 or ids[0, media_length:].tolist() != words:
        raise ValueError("Several questions cannot be asked about a truncated prompt: leave `truncation` out.")
    shared = media_length + len(shared_words(processor, bare))
    media = {name: inputs[name] for name in MEDIA_INPUTS if name in inputs}
    return {"input_ids": ids[:, :shared], "media_length": media_length, **media}
