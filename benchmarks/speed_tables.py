"""The measurements behind the tables of `model_speed.py`: each function returns numbers, or rows of a table."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from measuring import WaitCounter, count_operators, peak_growth, roofline, stopwatch, take_turns, wait_for
from speed_models import Parts, build_config, build_model, flops, original_cost, prompt
from transformers import BitsAndBytesConfig, pipeline
from transformers.generation.streamers import BaseStreamer

from omnivinci_hf import OmniVinciForConditionalGeneration, Session
from omnivinci_hf.omnivinci.outputs_omnivinci import MEDIA_INPUTS
from omnivinci_hf.testing.tiny import write_tiny_checkpoint


@dataclass(frozen=True)
class Machine:
    device: str
    dtype: torch.dtype
    flops: float
    read: float

    @classmethod
    def measured(cls, device: str, dtype: torch.dtype) -> "Machine":
        return cls(device, dtype, *roofline(device, dtype))


def embed(model: OmniVinciForConditionalGeneration, inputs: dict) -> torch.Tensor:
    return model.model.embed_inputs(**{name: inputs[name] for name in ("input_ids", *MEDIA_INPUTS) if name in inputs})


# -- glue --------------------------------------------------------------------------------------------------------------


def glue_sides(model: OmniVinciForConditionalGeneration, parts: Parts, inputs: dict) -> dict[str, Callable]:
    """A prefill, and what its parts cost alone: SigLIP and the audio encoder also in chunks as the model takes them."""
    pixels, mel = inputs["pixel_values_videos"], inputs["input_features"]
    pixels, mel = pixels.to(model.dtype), mel.to(model.dtype)
    options = {"attention_mask": inputs["attention_mask"], "use_cache": True, "logits_to_keep": 1}
    with torch.inference_mode():
        embeds = embed(model, inputs)
    chunks = {"SigLIP": (parts.vision, pixels, "video"), "audio encoder": (parts.audio, mel, "audio")}
    sides = {"whole": lambda: model(**inputs, use_cache=True, logits_to_keep=1)}
    for name, (part, tensor, kind) in chunks.items():
        size = model.model._chunk_size(kind, tensor)
        sides[name] = lambda part=part, tensor=tensor: part(tensor)
        if size < len(tensor):
            sides[f"{name}, in chunks of {size}"] = lambda part=part, tensor=tensor, size=size: [
                part(chunk) for chunk in tensor.split(size)
            ]
    sides["Qwen2"] = lambda: parts.text(inputs_embeds=embeds, **options)
    return sides


def sum_of_parts(values: dict[str, float]) -> float:
    """Adds up the parts, each in its better way."""
    parts: dict[str, float] = {}
    for name, value in values.items():
        part = name.split(",")[0]
        if part != "whole":
            parts[part] = min(value, parts.get(part, value))
    return sum(parts.values())


@torch.inference_mode()
def glue(model, parts, inputs: dict, repeats: int, machine: Machine, clock=time.perf_counter) -> dict[str, float]:
    """Seconds of every side, "sum" of the parts and "ratio" of the whole to it."""
    sides = glue_sides(model, parts, inputs)
    seconds = take_turns({name: stopwatch(run, machine.device, clock) for name, run in sides.items()}, repeats)
    total = sum_of_parts(seconds)
    return {**seconds, "sum": total, "ratio": seconds["whole"] / total}


def glue_rows(model, parts, inputs: dict, seconds: dict[str, float], machine: Machine) -> list[list]:
    cost = flops(parts, len(inputs["pixel_values_videos"]), len(inputs["input_features"]), inputs["input_ids"].shape[1])
    cost["whole"] = cost["sum"] = sum(cost.values())
    rows = []
    for name, value in seconds.items():
        if name != "ratio":
            rate = cost[name.split(",")[0]] / value
            rows.append([name, f"{value:.3f}", f"{rate / 1e12:.3f}", f"{rate / machine.flops:.0%}"])
    return rows


@torch.inference_mode()
def wait_rows(model, parts, inputs: dict, device: str) -> list[list]:
    """How often a prefill, and its parts in the same chunks, wait for the device, and how many operators they run."""
    sides = glue_sides(model, parts, inputs)
    chunked = {name.split(",")[0] for name in sides if "," in name}
    alone = [run for name, run in sides.items() if name != "whole" and name not in chunked]
    rows = []
    for name, run in (("whole", sides["whole"]), ("parts", lambda: [part() for part in alone])):
        with WaitCounter() as waits:
            run()
        counts = count_operators(run, device)
        by_package = [waits.counts[package] for package in ("omnivinci_hf", "transformers", "other")]
        profiled = counts["waits"] if device != "cpu" else "not measured"
        rows.append([name, *by_package, profiled, counts["operators"]])
    return rows


# -- decoding ----------------------------------------------------------------------------------------------------------


class Stamps(BaseStreamer):
    """When the prompt was taken and when each token was there."""

    def __init__(self):
        self.times: list[float] = []

    def put(self, value):
        self.times.append(time.perf_counter())

    def end(self):
        pass


def decode_rates(model, parts, inputs: dict, num_tokens: int, repeats: int, **options) -> dict[str, float]:
    """Tokens a second of all rows, by the median time between two tokens: "whole" and "Qwen2ForCausalLM"."""
    rows = len(inputs["input_ids"])
    with torch.inference_mode():
        embeds = embed(model, inputs)
    given = {name: value for name, value in inputs.items() if value is not None}
    options |= {"max_new_tokens": num_tokens, "min_new_tokens": num_tokens}

    def rate(run) -> float:
        stamps = Stamps()
        run(stamps)
        return rows / float(np.median(np.diff(stamps.times[1:])))

    sides = {
        "whole": lambda: rate(lambda stamps: model.generate(**given, **options, streamer=stamps)),
        "Qwen2ForCausalLM": lambda: rate(
            lambda stamps: parts.text.generate(
                inputs_embeds=embeds, attention_mask=inputs["attention_mask"], **options, streamer=stamps
            )
        ),
    }
    return take_turns(sides, repeats)


def bytes_per_token(parts: Parts, length: int) -> int:
    """What decoding one token reads: all weights but the words' table, and the cache."""
    text = parts.text.model
    weights = sum(parameter.nbytes for parameter in text.layers.parameters()) + parts.text.lm_head.weight.nbytes
    config, dtype = text.config, parts.text.lm_head.weight.dtype
    width = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    return weights + 2 * length * width * config.num_hidden_layers * dtype.itemsize


# -- memory and long input ---------------------------------------------------------------------------------------------


def memory_rows(
    size: str, device: str, dtype: torch.dtype, frames: tuple = (128, 1024), minutes: tuple = (2, 60)
) -> list[dict]:
    """Peaks of encoding, beyond weights, inputs and the embeddings that come out."""
    config = build_config(size)
    model = build_model(config, device, dtype)
    rows = []

    def measure(what: str, num_frames: int, audio_sec: float) -> None:
        inputs, given = prompt(config, num_frames, audio_sec, device), []
        growth = peak_growth(lambda: given.append(embed(model, inputs).nbytes), device)
        rows.append({"what": what, "peak": growth - given[0]})

    with torch.inference_mode():
        measure("libraries, once", 8, 30.0)
        for count in frames:
            measure(f"{count:,} frames", count, 0.0)
        for count in minutes:
            measure(f"{count} min of sound", 0, 60.0 * count)
        model.config.vision_chunk_size = model.config.audio_chunk_size = 1000
        measure(f"{frames[0]} frames, all at once", frames[0], 0.0)
        measure(f"{minutes[0]} min of sound, all at once", 0, 60.0 * minutes[0])
    return rows[1:]


def long_rows(
    size: str,
    device: str,
    dtype: torch.dtype,
    frames: tuple = (16, 64, 256, 1024),
    seconds_of_sound: tuple = (10.0, 60.0, 600.0, 3600.0),
) -> list[dict]:
    """Seconds of encoding and of the language model, and the peak, as frames and sound get more."""
    config = build_config(size, video_pool_sizes=[[1, 2, 2]], audio_merge_size=10)
    model = build_model(config, device, dtype)
    text, rows = config.text_config, []
    width = text.num_key_value_heads * text.hidden_size // text.num_attention_heads
    lengths = [("frames", count, 0.0) for count in frames]
    lengths += [("sound", 0, seconds) for seconds in seconds_of_sound]
    with torch.inference_mode():
        for kind, num_frames, audio_sec in [("", 8, 30.0), *lengths]:
            # a window is 30 s, also where the sound is shorter
            inputs = prompt(config, num_frames, max(30.0, audio_sec) if audio_sec else 0.0, device)
            seconds, embeds = [], []

            def read(inputs=inputs, embeds=embeds, seconds=seconds):
                seconds.append(stopwatch(lambda: embeds.append(embed(model, inputs)), device)())
                seconds.append(
                    stopwatch(
                        lambda: model(
                            inputs_embeds=embeds[0], attention_mask=inputs["attention_mask"], logits_to_keep=1
                        ),
                        device,
                    )()
                )

            peak = peak_growth(read, device)
            length = inputs["input_ids"].shape[1]
            cache = 2 * length * width * text.num_hidden_layers * dtype.itemsize
            rows.append(
                {
                    "kind": kind,
                    "amount": num_frames or audio_sec,
                    "length": length,
                    "encode": seconds[0],
                    "language": seconds[1],
                    "peak": peak,
                    "kept": cache + embeds[0].nbytes,
                }
            )
    return rows[1:]


def original_rows() -> list[list]:
    """The same amounts for the original model, by formula."""
    amounts = [(count, 0.0) for count in (16, 64, 128, 256, 1024)] + [(0, sec) for sec in (60.0, 600.0, 3600.0)]
    rows = []
    for num_frames, audio_sec in amounts:
        length, cache, flops = original_cost(num_frames, audio_sec)
        what = f"{num_frames:,} frames" if num_frames else f"{audio_sec / 60:g} min of sound"
        limit = build_config("real").text_config.max_position_embeddings
        rows.append([what, f"{length:,}", f"{length / limit:.0%}", f"{cache:.2f}", f"{flops:,.0f}"])
    return rows


# -- many questions ----------------------------------------------------------------------------------------------------


def questions_seconds(num_frames: int, device: str, repeats: int) -> dict[str, tuple[float, float]]:
    """Seconds to the first token of two questions about one clip, through the pipeline and with a session."""
    parts = build_config("slim")
    vision, text, audio = (config.to_dict() for config in (parts.vision_config, parts.text_config, parts.audio_config))
    names = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    sizes = {name: vision[name] for name in (*names, "image_size", "patch_size", "vision_use_head")}
    words = {name: text[name] for name in (*names, "num_key_value_heads", "vocab_size")}
    sound = {name: audio[name] for name in ("d_model", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim")}
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, *[vision["image_size"]] * 2, 3), dtype=np.uint8)
    questions = ["What happens in this clip?", "Who is seen at its end, and where?"]
    with tempfile.TemporaryDirectory() as folder:
        write_tiny_checkpoint(folder, llm=words, vision_tower=sizes, sound_tower=sound)
        pipe = pipeline("omni-qa", model=folder, device=device)
        ways = {"pipeline": _ask_pipeline, "session": _ask_session}
        found = {way: [] for way in ways}
        for _ in range(repeats + 1):
            for way, ask in ways.items():
                found[way].append(ask(pipe, frames, questions))
    return {way: tuple(np.median(times[1:], axis=0).tolist()) for way, times in found.items()}


def _ask_pipeline(pipe, frames, questions) -> tuple[float, float]:
    times = [time.perf_counter()]

    def stamp(input_ids, scores, **kwargs):
        wait_for(pipe.device.type)
        times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    options = {"num_frames": len(frames), "max_new_tokens": 1, "stopping_criteria": [stamp]}
    pipe(video=frames, question=questions, video_metadata={"fps": 2}, **options)
    return times[1] - times[0], times[2] - times[1]


def _ask_session(pipe, frames, questions) -> tuple[float, float]:
    times = [time.perf_counter()]
    session = Session(pipe.model, pipe.processor, video=frames, video_metadata={"fps": 2}, num_frames=len(frames))
    for question in questions:
        session.ask(question, max_new_tokens=1)
        wait_for(pipe.device.type)
        times.append(time.perf_counter())
    return times[1] - times[0], times[2] - times[1]


# -- quantized ---------------------------------------------------------------------------------------------------------


def quantized_rows(size: str, num_frames: int, audio_sec: float, device: str) -> list[list]:
    """Size, prefill, decoding and peak of the language model in bfloat16, int8 and nf4, on a GPU."""
    config = build_config(size)
    modes = {
        "bfloat16": None,
        "int8": BitsAndBytesConfig(load_in_8bit=True),
        "nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16),
    }
    return [
        [mode, *_quantized_row(config, quantization, num_frames, audio_sec, device)]
        for mode, quantization in modes.items()
    ]


@torch.inference_mode()
def _quantized_row(config, quantization, num_frames: int, audio_sec: float, device: str) -> list[str]:
    """Measures one row; nothing of the model is left when it returns."""
    model = build_model(config, device if quantization is None else "cpu", torch.bfloat16)
    if quantization is not None:
        model = OmniVinciForConditionalGeneration.from_pretrained(
            None,
            config=config,
            state_dict=model.state_dict(),
            dtype=torch.bfloat16,
            quantization_config=quantization,
            device_map=device,
        ).eval()
        model.generation_config.update(pad_token_id=0, eos_token_id=None, do_sample=False)
    size, inputs = model.get_memory_footprint(), prompt(config, num_frames, audio_sec, device)
    run = stopwatch(lambda: model(**inputs, logits_to_keep=1), device)
    seconds, peak = take_turns({"prefill": run}, 3)["prefill"], peak_growth(run, device)
    decoding = decode_rates(model, Parts(model), prompt(config, 1, 30.0, device), 32, 3)["whole"]
    return [f"{size / 1e9:.1f}", f"{seconds:.2f}", f"{decoding:.1f}", f"{(size + peak) / 1e9:.1f}"]
