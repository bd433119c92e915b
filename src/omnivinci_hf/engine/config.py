"""This module reads the configuration of the data engine, a YAML file, as typed data."""

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from glob import glob
from pathlib import Path
from typing import Any, get_args, get_type_hints

import yaml

from ..omnivinci.checks_omnivinci import refuse_unknown


STAGES = ("segments", "vision", "audio", "omni", "qa", "filtered", "train")
AGREEMENTS = ("exact", "model")


@dataclass(frozen=True)
class SegmentOptions:
    """These options say how videos are cut.

    Args:
        length_sec: the longest segment.
        min_sec: the shortest; a shorter rest belongs to the segment before it.
        scene_cuts: cut where the picture changes at once, too.
        threshold: mean difference of two successive pictures, in levels of 255, from which on it is a cut.
    """

    length_sec: float = 20.0
    min_sec: float = 2.0
    scene_cuts: bool = False
    threshold: float = 25.0


@dataclass(frozen=True)
class Price:
    """A price is what a backend costs per million tokens, in any currency."""

    prompt: float
    completion: float


@dataclass(frozen=True)
class OpenAIBackend:
    """An OpenAI-compatible backend is one server or several that answer `POST {url}/chat/completions` alike.

    Args:
        urls: where the servers are, up to `/v1`.
        model: the name that the servers know.
        api_key_env: the environment variable with the key.
        concurrency: requests at a time to each URL.
        timeout_sec: so long nothing may come from a server.
        retries: how often a request is sent again after a fault of the server or the line.
        parameters: more keys of the request, such as `temperature`, `max_tokens`, `seed`.
        video: how the picture of a segment is sent: "image_url", its frames as JPEG files with their seconds; or
            "video_url", an MP4 file of the frames.
        audio: how audio is sent, as a WAV file: "input_audio" or "audio_url".
        num_frames: of a segment.
        price: for the cost.
        version: change it when the same name stands for another model.
    """

    urls: list[str]
    model: str
    api_key_env: str = ""
    concurrency: int = 8
    timeout_sec: float = 300.0
    retries: int = 6
    parameters: dict[str, Any] = field(default_factory=dict)
    video: str = "image_url"
    audio: str = "input_audio"
    num_frames: int = 16
    price: Price | None = None
    version: str = ""

    @property
    def num_workers(self) -> int:
        """The number of requests at a time."""
        return self.concurrency * len(self.urls)

    def identity(self) -> dict[str, Any]:
        """Returns what a reply depends on."""
        forms = {"video": self.video, "audio": self.audio, "num_frames": self.num_frames}
        return {"model": self.model, "parameters": self.parameters, "version": self.version, **forms}


@dataclass(frozen=True)
class TransformersBackend:
    """A local backend is a checkpoint of this package, asked through `pipeline("omni-qa")`.

    Args:
        model: folder or Hub id.
        options: of the pipeline's call: those of the processor and of `generate`, such as `num_frames`.
        dtype, device_map: as `pipeline` takes them.
        version: change it when the same folder holds another model.
    """

    model: str
    options: dict[str, Any] = field(default_factory=dict)
    dtype: str = "auto"
    device_map: str = ""
    price: Price | None = None
    version: str = ""

    num_workers = 1

    def identity(self) -> dict[str, Any]:
        """Returns what a reply depends on."""
        return {"model": self.model, "options": self.options, "dtype": self.dtype, "version": self.version}


@dataclass(frozen=True)
class PythonBackend:
    """A backend in Python is a function that takes a [`Request`] and returns the reply as a string.

    Args:
        function: "module:name"; the folder of the configuration is searched, too.
        concurrency: calls at a time.
        version: change it when the function changes, so that it is asked again.
    """

    function: str
    concurrency: int = 1
    price: Price | None = None
    version: str = ""

    @property
    def model(self) -> str:
        """What records call the model."""
        return self.function

    @property
    def num_workers(self) -> int:
        """The number of calls at a time."""
        return self.concurrency

    def identity(self) -> dict[str, Any]:
        """Returns what a reply depends on."""
        return {"model": self.function, "version": self.version}


Backend = OpenAIBackend | TransformersBackend | PythonBackend
BACKENDS: dict[str, type[Backend]] = {
    "openai": OpenAIBackend,
    "transformers": TransformersBackend,
    "python": PythonBackend,
}


@dataclass(frozen=True)
class StageOptions:
    """A stage has a backend, by its name, and a prompt, the file `{prompt}.jinja`."""

    backend: str
    prompt: str = ""


@dataclass(frozen=True)
class QuestionOptions(StageOptions):
    """The stage `qa` asks so many questions about a segment, at most."""

    questions: int = 6


@dataclass(frozen=True)
class FilterOptions(StageOptions):
    """The stage `filtered` answers each question again, with both captions, with one, and with none.

    Args:
        prompt: of these answers.
        agreement: whether two answers say the same: "exact", by their words, or "model", asked with `agree_prompt`.
        single_captions: drop questions that one caption answers.
        words_alone: drop questions that are answered without any.
    """

    agreement: str = "model"
    agree_prompt: str = "agree"
    single_captions: bool = True
    words_alone: bool = True


@dataclass(frozen=True)
class TrainOptions:
    """These options say what rows are written.

    Args:
        captions: a row of each omni caption.
        traces: put the trace of reasoning before answers, between `<think>` and `</think>`.
        media_root: paths are relative to this folder, which `train --media-root` then names; else absolute.
    """

    captions: bool = True
    traces: bool = False
    media_root: str = ""


@dataclass(frozen=True)
class EngineConfig:
    """
    The configuration of the data engine.

    Args:
        media: paths or patterns (`clips/*.mp4`, `clips/**/*.mp4`), relative to the file of the configuration.
        output: folder of all that is written.
        backends: by names of one's own.
        vision, audio, omni, qa, filtered: the stages.
        speech: transcribes what is said, apart from `audio`; without it nothing does.
        prompts: folder with templates that replace those of the package.
        attempts: how often a model is asked for a reply in the right form.
        folder: that relative paths begin at.
    """

    media: list[str]
    output: str
    backends: dict[str, Backend]
    vision: StageOptions
    audio: StageOptions
    omni: StageOptions
    qa: QuestionOptions
    filtered: FilterOptions
    speech: StageOptions | None = None
    segments: SegmentOptions = SegmentOptions()
    train: TrainOptions = TrainOptions()
    prompts: str = ""
    attempts: int = 3
    folder: Path = Path()

    def __post_init__(self):
        for name in ("vision", "audio", "speech", "omni", "qa", "filtered"):
            stage = getattr(self, name)
            if stage is not None and stage.backend not in self.backends:
                refuse_unknown(f"`backends` (which `{name}.backend` names)", [stage.backend], self.backends, ValueError)
        if not self.output.strip():
            raise ValueError("`output` must name a folder, got an empty string.")
        _check_choice("filtered.agreement", self.filtered.agreement, AGREEMENTS)
        positive = {
            "segments.length_sec": self.segments.length_sec,
            "segments.min_sec": self.segments.min_sec,
            "segments.threshold": self.segments.threshold,
            "qa.questions": self.qa.questions,
            "attempts": self.attempts,
        }
        for name, backend in self.backends.items():
            place = f"backends.{name}"
            if isinstance(backend, OpenAIBackend):
                _check_choice(f"{place}.video", backend.video, ("image_url", "video_url"))
                _check_choice(f"{place}.audio", backend.audio, ("input_audio", "audio_url"))
                positive |= {f"{place}.{key}": getattr(backend, key) for key in ("timeout_sec", "num_frames")}
                _check_server(place, backend)
            if isinstance(backend, PythonBackend) and ":" not in backend.function:
                raise ValueError(f'`{place}.function` must be "module:name", got {backend.function!r}.')
            positive[f"{place}.concurrency"] = backend.num_workers
        if wrong := [f"`{name}` is {value}" for name, value in positive.items() if not value > 0]:
            raise ValueError(f"Numbers must be greater than 0, but {' and '.join(wrong)}.")
        if self.segments.min_sec > self.segments.length_sec:
            raise ValueError(
                f"`segments.min_sec` ({self.segments.min_sec}) is more than `segments.length_sec` "
                f"({self.segments.length_sec})."
            )

    def path(self, name: str) -> Path:
        """Returns a path that the configuration names; relative ones begin at its own folder."""
        return self.folder / os.path.expanduser(name)

    def media_files(self) -> list[Path]:
        """Lists the media, sorted within each pattern, each once.

        Raises:
            FileNotFoundError: when a path or pattern finds nothing.
        """
        files: dict[Path, None] = {}
        for pattern in self.media:
            path = self.path(pattern)
            names = glob(os.path.expanduser(pattern), root_dir=self.folder, recursive=True)
            found = [path] if path.exists() else sorted(map(self.path, names))
            found = [file for file in found if file.is_file()]
            if not found:
                raise FileNotFoundError(f"`media`: {path} finds no file; give files or a pattern such as clips/*.mp4.")
            files.update(dict.fromkeys(file.resolve() for file in found))
        return list(files)


def load_config(file: str | os.PathLike) -> EngineConfig:
    """Reads the configuration.

    Raises:
        ValueError: for keys that are unknown, missing, or of another type than expected.
        OSError: when the file cannot be read.
    """
    file = Path(file)
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is no YAML: {error}") from error
    try:
        return _read(EngineConfig, values, "", {"folder": file.resolve().parent})
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error


def _read(kind: type, values: Any, place: str, extra: Mapping[str, Any] = {}) -> Any:  # noqa: B006 (never written to)
    """Makes a dataclass of a mapping, whose values are checked against the types of its fields."""
    if not isinstance(values, Mapping):
        raise ValueError(f"`{place or 'the file'}` must be a mapping, got {values!r}.")
    _check_keys(kind, values, place, extra)
    hints = get_type_hints(kind)
    prefix = f"{place}." if place else ""
    read = {name: _value(hints[name], value, f"{prefix}{name}") for name, value in values.items()}
    return kind(**read, **extra)


def _backend(values: Any, place: str) -> Backend:
    """Reads a backend, whose `kind` names its class."""
    if not isinstance(values, Mapping):
        raise ValueError(f"`{place}` must be a mapping, got {values!r}.")
    values = dict(values)
    name = values.pop("kind", None)
    if name not in BACKENDS:
        raise ValueError(f"`{place}.kind` must be one of {', '.join(BACKENDS)}, got {name!r}.")
    return _read(BACKENDS[name], values, place)


def _check_keys(kind: type, values: Mapping[str, Any], place: str, extra: Mapping[str, Any]) -> None:
    """Raises ValueError for keys that a dataclass does not have, and for those that it needs and that are missing."""
    known = [entry for entry in fields(kind) if entry.name not in extra]
    refuse_unknown(f"`{place}`" if place else "The configuration", values, [entry.name for entry in known], ValueError)
    required = [e.name for e in known if e.default is MISSING and e.default_factory is MISSING]
    if missing := [name for name in required if name not in values]:
        raise ValueError(f"`{place or 'The configuration'}` lacks {missing}.")


def _value(hint: Any, value: Any, place: str) -> Any:
    """Reads a value as the type of its field asks for it."""
    options = [one for one in get_args(hint) if one is not type(None)]
    if type(None) in get_args(hint):
        return None if value is None else _value(options[0], value, place)
    if place == "backends":
        return _backends(value)
    if hasattr(hint, "__dataclass_fields__"):
        return _read(hint, value, place)
    if hint == list[str]:
        return _strings(value, place)
    if hint == dict[str, Any]:
        if not isinstance(value, Mapping):
            raise ValueError(f"`{place}` must be a mapping, got {value!r}.")
        return dict(value)
    return _scalar(hint, value, place)


def _backends(value: Any) -> dict[str, Backend]:
    """Reads all backends, by their names."""
    if not isinstance(value, Mapping) or not value:
        raise ValueError("`backends` must be a mapping with one backend at least.")
    return {str(name): _backend(backend, f"backends.{name}") for name, backend in value.items()}


def _strings(value: Any, place: str) -> list[str]:
    """Reads a list of strings; a single string is a list of one."""
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not value or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"`{place}` must be a string or a list of strings, got {value!r}.")
    return value


def _scalar(hint: Any, value: Any, place: str) -> Any:
    """Reads a string, a number or a truth value; a version may be written as a number."""
    if hint is str and isinstance(value, (int, float)) and place.endswith(".version"):
        return str(value)
    accepted = (int, float) if hint is float else hint
    if not isinstance(value, accepted) or isinstance(value, bool) != (hint is bool):
        kinds = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
        raise ValueError(f"`{place}` must be {kinds[hint]}, got {value!r}.")
    return value


def _check_choice(place: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{place}` must be one of {', '.join(choices)}, got {value!r}.")


def _check_server(place: str, backend: OpenAIBackend) -> None:
    if wrong := [url for url in backend.urls if not url.startswith(("http://", "https://"))]:
        raise ValueError(f"`{place}.urls` must begin with http:// or https://, got {wrong[0]!r}.")
    if backend.retries < 0:
        raise ValueError(f"`{place}.retries` must be 0 or more, got {backend.retries}.")
    if taken := sorted({"model", "messages", "stream"} & backend.parameters.keys()):
        raise ValueError(f"`{place}.parameters` cannot have {taken}, which the engine sets.")
    if backend.api_key_env and not os.environ.get(backend.api_key_env):
        raise ValueError(
            f"`{place}.api_key_env` names the environment variable {backend.api_key_env}, which is not set."
        )
