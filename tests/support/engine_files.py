"""A small engine: clips, a configuration, and the replies of a model that follows a rule."""

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from chat_server import prompt_of

from tests.support.world_scenes import write_plain_clip


def write_clips(folder: Path, number: int = 3) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(number):
        # of different lengths, so that no two have the same content
        write_plain_clip(folder / f"{index}.mp4", duration=2 + index)


def settings(url: str | list[str], **changes: Any) -> dict[str, Any]:
    """The configuration as plain data; `changes` replace whole keys."""
    server = {"kind": "openai", "urls": url, "model": "stub", "num_frames": 2, "timeout_sec": 20, "retries": 3}
    server["price"] = {"prompt": 1.0, "completion": 10.0}
    stages = {name: {"backend": "server"} for name in ("vision", "audio", "speech", "omni")}
    return {
        "media": "clips/*.mp4",
        "output": "out",
        "backends": {"server": server},
        **stages,
        "qa": {"backend": "server", "questions": 6},
        "filtered": {"backend": "server", "agreement": "exact"},
    } | changes


def write_settings(folder: Path, values: dict[str, Any]) -> Path:
    file = folder / "engine.yaml"
    file.write_text(yaml.safe_dump(values), encoding="utf-8")
    return file


def stage_of(prompt: str) -> str:
    beginnings = {
        "You see": "vision",
        "Two models": "omni",
        "Answer a question": "answer",
        "Do these": "agree",
    }
    if prompt.startswith("You hear"):
        return "speech" if "Write down what is said" in prompt else "audio"
    if prompt.startswith("This is what is known"):
        return "qa" if "Ask up to" in prompt else "answer"
    return next(stage for begin, stage in beginnings.items() if prompt.startswith(begin))


def rule(body: dict[str, Any]) -> str:
    """Answers as a model that sees a dog, hears a bark and guesses a cat; the same words for the same request."""
    prompt = prompt_of(body)
    stage = stage_of(prompt)
    number = int(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:4], 16)
    if stage == "vision":
        return f"<think>I look.</think>{json.dumps([span('A dog runs.'), span(f'A cat meows {number} times.')])}"
    if stage == "audio":
        return json.dumps([span("A dog barks."), span("A red car passes.")])
    if stage == "speech":
        return json.dumps([span("the dog is a cat")])
    if stage == "omni":
        sentences = [
            {**span("A dog runs and barks."), "source": "both", "verdict": "kept", "from": ["v0", "a0"]},
            {**span("A cat meows."), "source": "heard", "verdict": "dropped", "from": ["v1"]},
            {**span("A voice calls it a cat."), "source": "both", "verdict": "contradicts", "from": ["s0", "v0"]},
        ]
        return "Here it is:\n```json\n" + json.dumps(sentences) + "\n```"  # a1 is not mentioned
    if stage == "qa":
        return json.dumps([question(*entry) for entry in QUESTIONS])
    if stage == "agree":
        return "No." if "unknown" in prompt else "Yes."
    asked = prompt.rpartition("\n\n")[2]
    view = "all" if "A dog runs and barks." in prompt else "some" if "This is what" in prompt else "none"
    return next(answers[view] for words, *_, answers in ANSWERED if words in asked)


def span(text: str) -> dict[str, Any]:
    return {"start": 0.5, "end": 1.5, "text": text}


def question(words: str, answer: str, origins: list[str]) -> dict[str, Any]:
    return {"question": words, "answer": answer, "reasoning": f"Because of {origins}.", "from": origins}


# question, answer, what it comes from, answers of the second pass by what it knows
ANSWERED = [
    ("What does it do?", "It barks.", ["o0"], {"all": "it barks", "some": "unknown", "none": "unknown"}),
    ("What animal is it?", "a dog", ["o0"], {"all": "a dog", "some": "A dog!", "none": "unknown"}),
    ("How many legs has a dog?", "four", ["o0"], {"all": "four", "some": "unknown", "none": "four"}),
    ("Who is there?", "a man", ["o0"], {"all": "a dog", "some": "unknown", "none": "unknown"}),
    ("What meows?", "a cat", ["o1"], {"all": "a cat", "some": "unknown", "none": "unknown"}),
]
QUESTIONS = [*(entry[:3] for entry in ANSWERED), ("what does it do", "It barks.", ["o0"])]
OUTCOMES = ["", "answered from picture alone", "answered from words alone", "second pass disagrees", "untraceable"]
OUTCOMES.append("duplicate")
