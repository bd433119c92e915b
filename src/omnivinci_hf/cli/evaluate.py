"""This module is the command `eval`: it asks a checkpoint the questions of a benchmark and scores the answers."""

import argparse
from pathlib import Path

from ..evaluation import lmms_tasks_path
from ..evaluation.run import AskOptions, evaluate, read_questions
from ..evaluation.scoring import format_scores
from ..evaluation.tasks import TASKS
from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from .commands import check_device, check_model, is_untrained, note, processor_options


def run_eval(arguments: argparse.Namespace) -> None:
    """Evaluates, lists the benchmarks, or prints where the task files for lmms-eval are."""
    if arguments.tasks_path:
        print(lmms_tasks_path())
        return
    if arguments.list_tasks:
        for task in TASKS.values():
            print(f"{task.name:12} {task.title}: {task.num_questions:,} questions; {task.layout}")
        return
    if missing := [name for name in ("task", "data") if getattr(arguments, name) is None]:
        raise ValueError(f"eval needs --{missing[0]} (see omnivinci-hf eval --help)")
    task = TASKS[arguments.task]
    ask = AskOptions(arguments.prompt, arguments.system, arguments.max_new_tokens, processor_options(arguments))
    check_device(arguments.device_map)
    # the data first: a wrong folder should not cost the loading of the weights
    questions = read_questions(task, arguments.data)
    check_model(arguments.model)
    processor = OmniVinciProcessor.from_pretrained(arguments.model)
    model = OmniVinciForConditionalGeneration.from_pretrained(
        arguments.model, dtype=arguments.dtype, device_map=arguments.device_map
    )
    if arguments.max_position_embeddings is not None:
        model.config.get_text_config().max_position_embeddings = arguments.max_position_embeddings
    if is_untrained(model):
        note("the weights of this checkpoint look untrained (every norm is exactly 1): its answers are noise.")
    output = arguments.output or Path("evaluation") / task.name
    scores = evaluate(
        task,
        questions,
        model,
        processor,
        output,
        model_name=arguments.model,
        limit=arguments.limit,
        ask=ask,
        note=note,
    )
    print(format_scores(scores, task.title))
    note(f"wrote answers, scores and files for the official scorer to {output}")
