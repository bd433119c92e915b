"""This module refuses what TRL's GRPO has and ours cannot do, by name."""

from typing import Any

from transformers import PreTrainedConfig, Trainer, TrainingArguments

from .collator import OmniVinciDataCollator


# options of `trl.GRPOConfig`, and why each is refused when it is set
REFUSED = {
    "use_vllm": "rollouts come from the model itself",
    "use_transformers_continuous_batching": "it takes no media",
    "use_transformers_paged": "it takes no media",
    "cache_implementation": "the cache of a prompt is shared by its completions",
    "chat_template_kwargs": "the processor takes none",
    "sync_ref_model": "the reference shares what does not learn with the model",
    "use_liger_kernel": "its kernels are not for these models",
    "log_completions_hub_repo": "completions are logged in the output folder alone",
    "fsdp": "rollouts with weights that are shared out were not tried",
    "deepspeed": "rollouts with weights that are shared out were not tried",
    "label_smoothing_factor": "there are no labels",
}
# options of `generation_kwargs` that change how many completions there are, or what is cached
REFUSED_OF_GENERATION = ("num_beams", "num_return_sequences", "use_cache", "prefill_chunk_size", "assistant_model")


def check_grpo_options(args: TrainingArguments, text_config: PreTrainedConfig) -> None:
    """Checks the arguments of a run of GRPO, and keeps the columns of its rows.

    Raises:
        ValueError: for what cannot be obeyed.
    """
    options: Any = args
    for name, reason in REFUSED.items():
        if getattr(options, name, None):
            raise ValueError(f"`{name}` is not supported by this GRPO: {reason}. Leave it out.")
    given = options.generation_kwargs or {}
    if refused := sorted(set(given) & set(REFUSED_OF_GENERATION)):
        raise ValueError(f"`generation_kwargs` cannot have {refused}: a prompt's completions share its cache.")
    if "sliding_attention" in (text_config.layer_types or ()):
        raise ValueError(
            "This language model has layers of sliding attention, whose cache cannot be shared by a group."
        )
    if options.remove_unused_columns:
        raise ValueError("`remove_unused_columns` would take the rows' columns from the rewards: leave it out.")


def check_collator(collator: OmniVinciDataCollator) -> None:
    """Checks that a collator has no settings that reinforcement would not follow.

    Raises:
        ValueError: for one that it has.
    """
    refused = {
        "max_length": collator.max_length is not None and "`max_completion_length` is that of an answer",
        "packing": collator.packing and "the completions of a prompt share one sequence already",
        "on_error": collator.on_error != "raise" and "groups need every row",
    }
    for name, reason in refused.items():
        if reason:
            raise ValueError(f"`{name}` of the collator is not for GRPO: {reason}. Leave it out.")


def check_sharding(trainer: Trainer) -> None:
    """Checks that accelerate, which has settings of its own beside the arguments, shares out no weights.

    Raises:
        ValueError: when it does.
    """
    for name, is_enabled in (("fsdp", trainer.is_fsdp_enabled), ("deepspeed", trainer.is_deepspeed_enabled)):
        if is_enabled:
            raise ValueError(f"`{name}`, here by accelerate, is not supported by this GRPO: {REFUSED[name]}.")
