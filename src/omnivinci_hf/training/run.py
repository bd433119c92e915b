"""This module trains one stage from beginning to end, as `omnivinci-hf train` does."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import BitsAndBytesConfig, TrainingArguments, set_seed
from transformers.utils import is_bitsandbytes_available, is_peft_available, logging

from ..hub.atomic_folders import whole_folder
from ..omnivinci.checkpoint_files_omnivinci import Adapted, find_adapter
from ..omnivinci.configuration_omnivinci import OmniVinciConfig
from ..omnivinci.generation_omnivinci import context_length
from ..omnivinci.modeling_omnivinci import OmniVinciForConditionalGeneration
from ..omnivinci.processing_omnivinci import OmniVinciProcessor
from .collator import OmniVinciDataCollator
from .data import load_rows
from .grpo_options import check_grpo_options
from .prompts import load_prompts
from .recipe import Recipe, apply_recipe, load_recipe, merge_saved_adapter
from .rewards import Reward, load_rewards
from .run_plot import plot_run
from .trainer import OmniVinciTrainer


logger = logging.get_logger(__name__)


@dataclass
class StageOptions:
    """
    The options say what a stage of training works on; [`TrainingArguments`] say how it is trained.

    Args:
        model (`str`): checkpoint to start from, of any layout that `from_pretrained` takes. The training of an adapter
            goes on by a recipe with `lora`, which must not contradict it; by another, it is merged into the weights
            first.
        data, eval_data: as in [`load_rows`].
        split, eval_split, media_root, streaming: as in [`load_rows`].
        max_length, packing, on_error: as in [`OmniVinciDataCollator`].
        dtype (`str`, *optional*): of the weights. By default float32, since in less small updates are lost to rounding
            (`bf16` of the training arguments computes in bfloat16); below an adapter, the checkpoint's own, with what
            learns in float32.
        merge (`bool`): after training an adapter, also write the checkpoint with the adapter merged into its weights,
            unquantized, to the folder `merged` inside the output.
        processor_options (`dict`): options of a call of the processor; they come before those of the recipe.
    """

    model: str
    data: str | Sequence[str]
    eval_data: str | Sequence[str] | None = None
    split: str = "train"
    eval_split: str = "validation"
    media_root: str | None = None
    streaming: bool = False
    max_length: int | None = None
    packing: bool = False
    on_error: str = "raise"
    dtype: str | None = None
    merge: bool = False
    processor_options: dict[str, Any] = field(default_factory=dict)


def train_stage(recipe: Recipe | str, options: StageOptions, arguments: TrainingArguments) -> OmniVinciTrainer:
    """Trains one stage, saves the result with its processor to `arguments.output_dir`, pushes it if that was asked for.

    `arguments.resume_from_checkpoint` takes the folder of a checkpoint, or `"true"` for the last one of the output. The
    learning rates are those of the recipe; `arguments.learning_rate` is not used, nor are the recipe's own `arguments`,
    which the command line puts into `arguments`.

    Raises:
        ValueError: when recipe, data and model do not fit, or a row is bad and `on_error` is "raise".
    """
    recipe = load_recipe(recipe) if isinstance(recipe, str) else recipe
    adapted = find_adapter(options.model, {})
    _check_stage(recipe, options, arguments, adapted)
    set_seed(arguments.seed)
    rewards, weights = ([], []) if recipe.rewards is None else load_rewards(recipe.rewards)
    # the data first: a wrong path should not cost the loading of the weights
    train_rows = _load_rows(options, options.data, options.split, rewards)
    eval_rows = None
    if options.eval_data is not None:
        eval_rows = _load_rows(options, options.eval_data, options.eval_split, rewards)
        _warn_without_evaluations(arguments)
    base = options.model if adapted is None else str(adapted.base)
    processor = OmniVinciProcessor.from_pretrained(options.model)
    collator = make_collator(
        options.model,
        processor,
        max_length=options.max_length,
        packing=options.packing,
        on_error=options.on_error,
        **{**recipe.processor_options, **options.processor_options},
    )
    common: dict[str, Any] = {
        "recipe": recipe,
        "data_collator": collator,
        "train_dataset": train_rows,
        "eval_dataset": eval_rows,
        "processing_class": processor,
    }
    if rewards:
        check_grpo_options(arguments, OmniVinciConfig.from_pretrained(options.model).text_config)
    model = _trainable_model(recipe, replace(options, model=base), adapted)
    trainer = _make_trainer(model, arguments, rewards, weights, common)
    trainer.train(resume_from_checkpoint=arguments.resume_from_checkpoint)
    if collator.num_skipped and not collator.num_used:
        raise ValueError(f"None of the {collator.num_skipped} rows could be used; `omnivinci-hf validate` tells why.")
    trainer.save_model()
    trainer.save_state()
    if rewards and trainer.is_world_process_zero():
        plot_run(trainer.state.log_history, Path(str(arguments.output_dir)) / "rewards.png")
    if collator.num_skipped:
        logger.warning("%d bad rows were left out.", collator.num_skipped)
    if options.merge and trainer.is_world_process_zero():
        output = str(arguments.output_dir)
        merge_adapter(output, base, Path(output) / "merged", options.dtype or "auto")
    if arguments.push_to_hub:
        trainer.push_to_hub(finetuned_from=base)
    return trainer


def _check_stage(recipe: Recipe, options: StageOptions, arguments: TrainingArguments, adapted: Adapted | None) -> None:
    """Refuses a stage that cannot be trained, before any of its data or weights are read."""
    if recipe.rewards is not None:
        _check_reinforcement(recipe, options, arguments)
    if options.merge and recipe.lora is None:
        raise ValueError(f"`merge` is for adapters, and recipe {recipe.name!r} has none.")
    if adapted is not None and adapted.base == options.model:
        raise ValueError(
            f"{options.model} must be a model or an adapter of one, and not both: move the adapter to a folder of its "
            "own, with the model's as `base_model_name_or_path` in adapter_config.json."
        )
    for package, is_there, is_needed in (
        ("peft", is_peft_available(), recipe.lora is not None or adapted is not None),
        ("bitsandbytes", is_bitsandbytes_available(), recipe.quantization is not None),
        ("trl", find_spec("trl") is not None, recipe.rewards is not None),
    ):
        if is_needed and not is_there:
            raise ImportError(f"Recipe {recipe.name!r} needs the package {package}: pip install {package}")
    if recipe.rewards is not None:
        import_module(".grpo", __package__)  # it tells another version of trl


def _check_reinforcement(recipe: Recipe, options: StageOptions, arguments: TrainingArguments) -> None:
    """Refuses what a stage of reinforcement cannot do."""
    refused = {
        "streaming": options.streaming and "rows are drawn by their number",
        "packing": options.packing and "the completions of a prompt share one sequence already",
        "max_length": options.max_length is not None and "`max_completion_length` is that of an answer",
        "reward_weights": getattr(arguments, "reward_weights", None) is not None
        and "weights stand behind the rewards' names",
        "on_error": options.on_error == "skip" and "groups need every row; `omnivinci-hf validate` tells the bad ones",
    }
    for name, reason in refused.items():
        if reason:
            raise ValueError(f"`{name}` is not for recipe {recipe.name!r}: {reason}. Leave it out.")


def _warn_without_evaluations(arguments: TrainingArguments) -> None:
    """Warns that no evaluation comes while a stage is trained."""
    if arguments.eval_strategy == "no":
        logger.warning("`eval_data` is not evaluated while it trains: `eval_strategy` is no, give steps or epoch.")


def _load_rows(options: StageOptions, data: str | Sequence[str], split: str, rewards: Sequence[Reward]):
    if rewards:
        return load_prompts(data, rewards, split, options.media_root)
    return load_rows(data, split, options.media_root, options.streaming, on_bad_row="return")


def _trainable_model(recipe: Recipe, options: StageOptions, adapted: Adapted | None) -> nn.Module:
    """The checkpoint with what the recipe trains, and the saved adapter on it or merged into it."""
    model: nn.Module = load_model(recipe, options)
    if adapted is None:
        model = apply_recipe(model, recipe)
    elif recipe.lora is None:
        model = apply_recipe(merge_saved_adapter(model, adapted.adapter), recipe)
    else:
        model = apply_recipe(model, recipe, adapted.adapter)
    if recipe.lora is not None:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    return model


def _make_trainer(
    model: nn.Module,
    arguments: TrainingArguments,
    rewards: list[Reward],
    weights: list[float],
    common: dict[str, Any],
) -> OmniVinciTrainer:
    """Makes the trainer of a stage: that of reinforcement if there are rewards."""
    if not rewards:
        return OmniVinciTrainer(model, arguments, **common)
    from .grpo import OmniVinciGRPOTrainer  # it needs the package trl

    arguments = copy.copy(arguments)  # the caller's may train another stage
    arguments.reward_weights = weights  # type: ignore[attr-defined]
    return OmniVinciGRPOTrainer(model, rewards, arguments, **common)  # type: ignore[return-value, arg-type]


def make_collator(model: str, processor: OmniVinciProcessor | None = None, **options: Any) -> OmniVinciDataCollator:
    """Makes the collator of a stage that trains `model`, to which rows beyond its context are bad ones."""
    context = context_length(OmniVinciConfig.from_pretrained(model).text_config)
    processor = processor or OmniVinciProcessor.from_pretrained(model)
    return OmniVinciDataCollator(processor, context_length=context, **options)


def load_model(recipe: Recipe, options: StageOptions) -> OmniVinciForConditionalGeneration:
    """Loads the checkpoint as a stage needs it: quantized below an adapter, with an OmniAlignNet if the recipe has one.

    Raises:
        ValueError: when the checkpoint has another OmniAlignNet, or an adapter would have to hold one.
    """
    arguments: dict[str, Any] = {"dtype": options.dtype or ("float32" if recipe.lora is None else "auto")}
    if recipe.omni_align_config is not None:
        arguments.update(_omni_align_arguments(recipe, options.model))
    if recipe.quantization is not None:
        quantization = quantization_config(recipe.quantization)
        arguments.update(quantization_config=quantization, device_map={"": PartialState().device})
    return OmniVinciForConditionalGeneration.from_pretrained(options.model, **arguments)


def _omni_align_arguments(recipe: Recipe, model: str) -> dict[str, Any]:
    """What `from_pretrained` is given so that the model has the OmniAlignNet of a recipe."""
    wanted = recipe.omni_align_config or {}
    saved = OmniVinciConfig.from_pretrained(model).omni_align_config
    if saved is None:
        if recipe.lora is not None:
            raise ValueError(
                f"Recipe {recipe.name!r} adds an OmniAlignNet, which an adapter cannot hold: first save the checkpoint "
                "with one, `from_pretrained(..., omni_align_config={})`."
            )
        return {"omni_align_config": wanted}
    changed = {name: value for name, value in wanted.items() if getattr(saved, name) != value}
    if changed.keys() - {"loss_weight"}:  # which has no weights, and can change
        raise ValueError(f"{model} has another OmniAlignNet than recipe {recipe.name!r}: {changed}.")
    return {"omni_align_config": {**saved.to_diff_dict(), **changed}} if changed else {}


def quantization_config(quantization: str) -> BitsAndBytesConfig:
    """Makes the configuration of weights in `"int8"` or `"nf4"`."""
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute_dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type=quantization, bnb_4bit_compute_dtype=compute_dtype)


def merge_adapter(adapter: str | Path, base: str | Path, folder: str | Path, dtype: str = "auto") -> None:
    """Writes the checkpoint `base`, loaded without quantization, with a PEFT adapter merged into it to `folder`."""
    model = OmniVinciForConditionalGeneration.from_pretrained(base, dtype=dtype)
    merged = merge_saved_adapter(model, adapter)
    with whole_folder(folder, overwrite=True) as new:
        merged.save_pretrained(new)
        OmniVinciProcessor.from_pretrained(base).save_pretrained(new)
