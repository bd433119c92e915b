"""This module lets another model judge answers, behind an OpenAI-compatible endpoint."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HTTPError, InferenceTimeoutError
from transformers.utils import logging

from .rewards import Reward, answer_of, as_answers, numbers_of, text_of


logger = logging.get_logger(__name__)
JUDGE_PROMPT = """You judge an answer to a question about a clip that you cannot see or hear.

Question: {question}
Right answer: {answer}
Answer to judge: {completion}

Reply with one number from 0 (wrong) to 1 (right in all that matters), and nothing else."""
JUDGE_FIELDS = ("question", "answer", "completion")
OUT_OF_ONE = re.compile(r"(?<=[\d.])\s*(?:/|(?:out )?of)\s*1(?:\.0*)?(?!\.?\d)")  # behind a number: "0.5 out of 1"
PASSING = (408, 429)  # status codes below 500 that may be gone the next time


@dataclass
class JudgeReward(Reward):
    """
    It asks a judge behind an OpenAI-compatible endpoint for a number from 0 to 1.

    A reply must have one number (`0.5`, `0.5/1`, `0.5 out of 1`), with words around it or not; one with none or with
    several gives no reward. The share of these is logged as `judge/unreadable`.

    Args:
        url (`str`): of the endpoint, up to and with `/v1`.
        model (`str`): its name there.
        prompt (`str`, *optional*): a file with the words for the judge, with `{question}`, `{answer}` and
            `{completion}` where these belong.
        api_key_env (`str`, *optional*): the environment variable that holds the key.
        max_tokens (`int`): of a reply; a judge that reasons needs more.
        num_workers (`int`): so many questions are open at a time.
        timeout_sec (`float`), num_tries (`int`): of one question.
        wait_sec (`float`): after the first failure; each time twice as long.
    """

    url: str = ""
    model: str = ""
    prompt: str | None = None
    api_key_env: str | None = None
    max_tokens: int = 512
    num_workers: int = 8
    timeout_sec: float = 120.0
    num_tries: int = 4
    wait_sec: float = 1.0

    def __post_init__(self):
        if missing := [name for name in ("url", "model") if not getattr(self, name)]:
            raise ValueError(f"The reward {self.name!r} needs {missing}: the endpoint, and the model's name there.")
        if self.api_key_env is not None and self.api_key_env not in os.environ:
            raise ValueError(f"The reward {self.name!r} reads its key from {self.api_key_env}, which is not set.")
        for name in ("max_tokens", "num_workers", "num_tries"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"`rewards.{self.name}.{name}` must be at least 1, got {value}.")
        if missing := [name for name in JUDGE_FIELDS if f"{{{name}}}" not in self.words]:
            raise ValueError(
                f"The prompt {self.prompt} of the reward {self.name!r} must have {{question}}, {{answer}} and "
                f"{{completion}} where these belong; it lacks {missing}."
            )

    @cached_property
    def words(self) -> str:
        """The words for the judge."""
        return JUDGE_PROMPT if self.prompt is None else Path(self.prompt).read_text(encoding="utf-8")

    @cached_property
    def client(self) -> InferenceClient:
        """The client of the endpoint."""
        key = os.environ[self.api_key_env] if self.api_key_env else "none"
        return InferenceClient(base_url=self.url, api_key=key, timeout=self.timeout_sec)

    def score_all(self, completions: Sequence[Any], columns: Mapping[str, Any]) -> Sequence[float | None]:
        """Asks about each distinct answer to a question once, several at a time.

        Raises:
            ValueError: when the endpoint gives no reply.
        """
        questions = map(question_of, columns["prompts"])
        answers = (" or ".join(as_answers(answer)) for answer in columns["answer"])
        asked = list(zip(questions, answers, map(text_of, completions), strict=True))
        distinct = list(dict.fromkeys(asked))
        with ThreadPoolExecutor(self.num_workers) as pool:
            scores = dict(zip(distinct, pool.map(self._judge, distinct), strict=True))
        if (log_metric := columns.get("log_metric")) is not None:
            log_metric(f"{self.name}/unreadable", sum(score is None for score in scores.values()) / len(scores))
        return [scores[one] for one in asked]

    def _judge(self, asked: tuple[str, str, str]) -> float | None:
        values = dict(zip(JUDGE_FIELDS, asked, strict=True))
        words = re.sub(r"\{(question|answer|completion)\}", lambda match: values[match[1]], self.words)
        reply = self._reply(words)
        numbers = numbers_of(OUT_OF_ONE.sub("", answer_of(reply)))
        if len(numbers) == 1 and 0 <= numbers[0] <= 1:
            return numbers[0]
        logger.warning("The judge at %s replied %r, not one number from 0 to 1: no reward.", self.url, reply[:200])
        return None

    def _reply(self, words: str) -> str:
        messages, error = [{"role": "user", "content": words}], None
        for turn in range(self.num_tries):
            if turn:
                time.sleep(self.wait_sec * 2 ** (turn - 1))
            try:
                output = self.client.chat_completion(
                    messages, model=self.model, max_tokens=self.max_tokens, temperature=0.0
                )
                return output.choices[0].message.content or ""
            except (HTTPError, InferenceTimeoutError, OSError, ValueError, LookupError, TypeError) as failure:
                error = failure
                status = getattr(getattr(failure, "response", None), "status_code", None)
                if status is not None and status < 500 and status not in PASSING:
                    break
        raise ValueError(f"The judge at {self.url} gives no reply ({type(error).__name__}: {error}).") from error


def question_of(prompt: Sequence[Mapping[str, Any]]) -> str:
    """Joins the words of the user's turns of a prompt."""
    return "\n".join(text_of([message]) for message in prompt if message["role"] == "user").strip()
