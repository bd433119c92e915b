"""This module reinforces answers about media by GRPO: TRL's trainer, with the clip of a group encoded once.

TRL's `GRPOTrainer` (1.16) knows images alone: with its own methods, rollouts see and hear a clip and the update does
not. Here the media and the prompt of a group are read once, and run once for all its completions:

- in a rollout, each distinct prompt is prefilled once, and its cache is handed to all completions of the group;
- in the update, each distinct prompt of a batch is one row, and its completions are branches of it, as the several
  conversations of a row are in [`OmniVinciDataCollator`].

TRL's public ways are taken where there are some: `rollout_func` (set after construction, when TRL no longer warns that
it is experimental), `evaluate`, `compute_loss`. Five private methods are overridden, each of which says why. Four names
of `trl.models` and `trl.trainer.utils` are used, and of the trainer the private `_step`, `_buffered_inputs` and
`_metrics`, and `generation_kwargs`, `generation_config` and `eos_token_ids`, which no page describes. Hence TRL's minor
version is bounded: a new one is let in when the tests have passed with it.
"""

import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import ConcatDataset
from transformers import DynamicCache, TrainerCallback
from trl import GRPOTrainer
from trl.models import unwrap_model_for_generation
from trl.trainer.utils import add_fused_lm_head, nanstd

from ..hub.training_states import random_states, restore_random_states
from ..omnivinci.configuration_omnivinci import MODALITIES
from ..omnivinci.generation_omnivinci import bare_model, check_parts, context_length
from ..omnivinci.outputs_omnivinci import CACHE, MEDIA_INPUTS
from .collator import IGNORE_INDEX, EncodedRow, OmniVinciDataCollator
from .data import ROW_ERRORS, RowError, place_of
from .grpo_batches import EpochSampler, frozen_copy, group_by_prompt, join_completions, regroup_by_prompt, strip_media
from .grpo_options import check_collator, check_grpo_options, check_sharding
from .prompts import normalize_prompt
from .rewards import as_reward, check_names
from .trainer import RecipeTrainerMixin


TESTED_TRL = "1.16"
if not version("trl").startswith(f"{TESTED_TRL}."):
    raise ImportError(
        f"GRPO overrides methods of TRL that may change, and is tested with TRL {TESTED_TRL} alone, but "
        f"{version('trl')} is installed: pip install 'trl=={TESTED_TRL}.*'"
    )


class OmniVinciGRPOTrainer(RecipeTrainerMixin, GRPOTrainer):  # type: ignore[misc]  # it makes our model card
    """
    This trainer is TRL's `GRPOTrainer` for prompts with images, videos and audio.

    The log has TRL's figures, and `reward_std_in_groups`: how far the rewards of one prompt's completions lie apart on
    average. With `beta` above 0, the reference is the model as it is given, a saved adapter included.

    Args:
        model ([`OmniVinciForConditionalGeneration`]): or one with an adapter of PEFT around it.
        reward_funcs (`list`): [`training.rewards.Reward`]s, or functions in the form of TRL's.
        args (`trl.GRPOConfig`).
        train_dataset, eval_dataset: rows, as [`training.prompts.load_prompts`] gives them, or a list of such.
        processing_class ([`OmniVinciProcessor`]).
        recipe ([`Recipe`], *optional*): gives every part of the model its own learning rate.
        data_collator ([`OmniVinciDataCollator`], *optional*): says how media are read, and where their paths begin.
        callbacks, optimizers: as in [`Trainer`].

    Raises:
        ValueError: for an option that TRL has and this trainer cannot obey, or a row that cannot be used.
        TypeError: for such an argument, or a reward that is no function.
    """

    # Transformers and TRL declare these more widely than they are here.
    model: Any
    processing_class: Any
    args: Any
    max_completion_length: int

    def __init__(
        self,
        model,
        reward_funcs,
        args: Any,
        train_dataset,
        eval_dataset=None,
        processing_class=None,
        *,
        recipe=None,
        data_collator: OmniVinciDataCollator | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple = (None, None),
        **refused: Any,
    ):
        if refused:
            raise TypeError(f"OmniVinciGRPOTrainer cannot obey {sorted(refused)} of TRL's trainer: leave them out.")
        check_parts(model, processing_class)
        text_config = bare_model(model).config.get_text_config()
        check_grpo_options(args, text_config)
        if getattr(bare_model(model), "is_quantized", False):
            raise ValueError("GRPO does not train above quantized weights: load the model without quantization.")
        self.recipe = recipe
        self.prompt_collator = data_collator or OmniVinciDataCollator(
            processing_class, context_length=context_length(text_config)
        )
        check_collator(self.prompt_collator)
        self.train_epoch = 0
        self._rows: list[Sequence] = []
        self._row_prompts: list[EncodedRow] = []  # the prompt of each row that the model will run
        given = reward_funcs if isinstance(reward_funcs, (list, tuple)) else [reward_funcs]
        self._rewards = [as_reward(one) for one in given]
        check_names(self._rewards)
        train_table = self._index_table(train_dataset)
        num_prompts = args.generation_batch_size // args.num_generations
        if len(train_table) < num_prompts:
            raise ValueError(
                f"A generation takes {num_prompts} prompts (`generation_batch_size` {args.generation_batch_size} by "
                f"`num_generations` {args.num_generations}), but there are {len(train_table)} rows: none would be "
                "trained. Give more rows, or lower `per_device_train_batch_size` or `gradient_accumulation_steps`."
            )
        eval_table = None if eval_dataset is None else self._index_table(eval_dataset)
        beta, reference = args.beta, frozen_copy(model) if args.beta else None
        args.beta = 0.0  # TRL would load the reference anew from where the config was read
        try:
            super().__init__(
                model,
                list(self._rewards),
                args,
                train_table,
                eval_table,
                processing_class,
                callbacks=callbacks,
                optimizers=optimizers,
            )
        finally:
            args.beta = beta
        self.beta = beta
        check_sharding(self)
        if reference is not None:
            self._add_reference(reference)
        self._suppress_placeholders()
        self.rollout_func = self._roll_out
        self.add_callback(_Position(self))

    def _add_reference(self, reference: torch.nn.Module) -> None:
        """Does with the reference what TRL does with one that it has loaded."""
        options = {"temperature": self.temperature, "cast_lm_head_to_fp32": self.args.cast_lm_head_to_fp32}
        add_fused_lm_head(bare_model(reference), **options)
        self.ref_model = self.accelerator.prepare_model(reference, evaluation_mode=True)

    def _suppress_placeholders(self) -> None:
        """Keeps rollouts from placeholders of any modality; TRL knows those of images."""
        config = bare_model(self.model).config
        suppressed = {getattr(config, f"{modality}_token_id") for modality in MODALITIES}
        suppressed |= set(self.generation_kwargs.get("suppress_tokens") or ())
        self.generation_kwargs["suppress_tokens"] = sorted(suppressed)
        self.generation_config.suppress_tokens = sorted(suppressed)

    # -- rows ----------------------------------------------------------------------------------------------------------

    def _index_table(self, rows) -> datasets.Dataset:
        """Makes the table of row numbers that stands for rows: TRL repeats and shuffles it, and no medium is in it.

        Raises:
            TypeError: for a stream, or several data sets by name.
            RowError: for a row that cannot be used.
        """
        if isinstance(rows, (dict, str)) or not (hasattr(rows, "__len__") and hasattr(rows, "__getitem__")):
            raise TypeError(
                f"GRPO draws rows by their number, from one list or dataset that has a length, not from a "
                f"{type(rows).__name__}: leave out `streaming`, and give one set of rows."
            )
        first = sum(map(len, self._rows))
        known = [sum(map(len, self._rows[:place])) for place, one in enumerate(self._rows) if one is rows]
        if not known:
            self._rows.append(rows)
            for number in range(first, first + len(rows)):
                self._row(number)  # a bad one is told now, and not after hours
        start = known[0] if known else first
        return datasets.Dataset.from_dict({"row": range(start, start + len(rows))})

    def _get_train_sampler(self, dataset=None):
        """Gives every epoch an order of its own seed.

        Overridden (TRL 1.16) because TRL's order depends on the epochs before, which a run that goes on has not seen.
        """
        return EpochSampler(super()._get_train_sampler(dataset), self)

    def _row(self, number: int) -> dict[str, Any]:
        try:
            return normalize_prompt(self._all_rows[number], self.prompt_collator.media_root, self._rewards)
        except RowError as error:
            error.place = error.place or place_of(self._all_rows, number)
            raise

    @property
    def _all_rows(self) -> ConcatDataset:
        return ConcatDataset(self._rows)  # type: ignore[arg-type]  # lists are as good as datasets

    def _encode(self, number: int, row: dict[str, Any]) -> EncodedRow:
        """Reads and encodes the prompt of a row.

        Raises:
            RowError: it tells which row cannot be used, and why.
        """
        place = place_of(self._all_rows, number)
        place = place if row["id"] is None else f"Row {row['id']!r} ({place})"
        try:
            (messages,) = row["conversations"]
            encoded = self.prompt_collator.encode_prompt(messages, self.max_completion_length, "max_completion_length")
        except ROW_ERRORS as error:
            raise RowError(str(error), place=place) from error
        config = bare_model(self.model).config
        if int(encoded.ids[-1]) in {getattr(config, f"{modality}_token_id") for modality in MODALITIES}:
            raise RowError("The chat template must end a prompt with words, behind the last medium.", place=place)
        return encoded

    # -- rollouts ------------------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """Generates completions for rows by their numbers, and adds the encoded prompt of each row.

        Overridden (TRL 1.16) because what it returns is all that reaches the update, and only images would be in it.
        """
        numbers = [one["row"] for one in inputs]
        rows = {number: self._row(number) for number in dict.fromkeys(numbers)}
        encoded = {number: self._encode(number, row) for number, row in rows.items()}
        self._row_prompts = [encoded[number] for number in numbers]
        names = sorted({name for row in rows.values() for name in row["columns"]})
        columns = [
            {
                **{name: rows[number]["columns"].get(name) for name in names},
                "prompt": strip_media(rows[number]["conversations"][0]),
                "answer": rows[number]["answer"],
                "rewards": rows[number]["rewards"],
                "id": rows[number]["id"],
            }
            for number in numbers
        ]
        output = super()._generate_and_score_completions(columns)
        return {**output, "row_prompts": self._row_prompts}

    @torch.no_grad()
    def _roll_out(self, prompts: list, trainer) -> dict[str, Any]:
        """Completes the prompts of `_row_prompts`, each distinct one prefilled once: the `rollout_func`."""
        was_training, limit = self.model.training, self._rows_at_once()
        completions: list[list[int]] = [[] for _ in self._row_prompts]
        groups = group_by_prompt(self._row_prompts)
        self.model.eval()  # no dropout, and no gradient checkpointing, under which there is no cache
        try:
            with (
                unwrap_model_for_generation(
                    self.model_wrapped, self.accelerator, generation_kwargs=self.generation_kwargs
                ) as unwrapped,
                self.accelerator.autocast(),
            ):
                while groups:
                    count = 1
                    while count < len(groups) and sum(map(len, groups[: count + 1])) <= limit:
                        count += 1
                    chosen, groups = groups[:count], groups[count:]
                    answers = self._complete(bare_model(unwrapped), chosen)
                    for row, answer in zip(sum(chosen, []), answers, strict=True):
                        completions[row] = answer
        finally:
            self.model.train(was_training)
        return {
            "prompt_ids": [prompt.ids.tolist() for prompt in self._row_prompts],
            "completion_ids": completions,
            "logprobs": None,
        }

    def _rows_at_once(self) -> int:
        args = self.args
        return args.per_device_train_batch_size if self.model.training else args.per_device_eval_batch_size

    def _complete(self, model, groups: list[list[int]]) -> list[list[int]]:
        """Draws a completion for each row of some groups: its ids, up to and with the one that ends it."""
        prompts = [self._row_prompts[group[0]] for group in groups]
        device = self.accelerator.device
        padding = self.processing_class.tokenizer.pad_token_id
        ids, mask = (
            pad_sequence(parts, batch_first=True, padding_value=value, padding_side="left").to(device)
            for parts, value in (
                ([prompt.ids for prompt in prompts], padding),
                ([torch.ones_like(prompt.ids) for prompt in prompts], 0),
            )
        )
        media = {
            name: torch.cat(parts).to(device)
            for name in MEDIA_INPUTS
            if (parts := [prompt.media[name] for prompt in prompts if name in prompt.media])
        }
        # the last token of the prompt stays: `generate` needs one that is not in the cache
        cache, before = DynamicCache(config=model.config.get_text_config()), mask[:, :-1]
        positions = (before.cumsum(-1) - 1).clamp(min=0)
        cached: dict[str, Any] = {CACHE: cache}
        model.model(
            input_ids=ids[:, :-1], attention_mask=before, position_ids=positions, use_cache=True, **cached, **media
        )
        sizes = torch.tensor([len(group) for group in groups], device=device)
        rows = torch.arange(len(groups), device=device).repeat_interleave(sizes)
        cache.batch_select_indices(rows)
        output = model.generate(
            input_ids=ids[rows], attention_mask=mask[rows], generation_config=self.generation_config, **cached
        )
        return [self._ended(answer) for answer in output[:, ids.shape[1] :].tolist()]

    def _ended(self, ids: list[int]) -> list[int]:
        """Takes the padding off a completion, which follows the token that ends it."""
        return ids[: next((place + 1 for place, one in enumerate(ids) if one in self.eos_token_ids), len(ids))]

    def _calculate_rewards(self, inputs, prompts, completions, completion_ids_list):
        """Calculates the rewards, and logs their standard deviation within groups.

        Overridden (TRL 1.16) because TRL logs that of the whole batch alone, and a group may be on several processes.
        """
        rewards = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        mode = "train" if self.model.training else "eval"
        size = self.num_generations if self.model.training else self.num_generations_eval
        if size > 1:
            totals = (rewards * self.reward_weights.to(rewards.device)).nansum(dim=1)
            totals = totals.masked_fill(rewards.isnan().all(dim=1), torch.nan)
            spread = nanstd(totals.view(-1, size), dim=1)
            self._metrics[mode]["reward_std_in_groups"].append(spread.nanmean().item())
        return rewards

    # -- the update ----------------------------------------------------------------------------------------------------

    def _prepare_inputs(self, generation_batch):
        """Splits a new generation into batches in which the rows of a prompt stay together.

        Overridden (TRL 1.16) because TRL shuffles the rows before: most of a batch would be prompts of one row.
        """
        before = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is before:
            return inputs
        self._buffered_inputs = regroup_by_prompt(self._buffered_inputs)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Computes the loss of completions, with the media of their prompts."""
        self._row_prompts = inputs["row_prompts"]
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _get_per_token_logps_and_entropies(
        self, model, input_ids, attention_mask, logits_to_keep, batch_size=None, compute_entropy=False, **images: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None, None]:
        """Returns log-probabilities and entropies of completions `(num_rows, logits_to_keep)`, 0 where these end.

        Overridden (TRL 1.16) because this is where the model runs: TRL's has arguments for images alone, which stay
        None, as media come with the prompts. No layer of these models has an auxiliary loss, the third result.
        """
        assert not any(value is not None and value is not False for value in images.values()), sorted(images)
        assert len(self._row_prompts) == len(input_ids), (len(self._row_prompts), len(input_ids))
        prompts, size = self._row_prompts, batch_size or len(input_ids)
        completions, mask = input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:].bool()
        parts = []
        for start in range(0, len(input_ids), size):
            rows = slice(start, start + size)
            parts.append(self._run_branches(model, prompts[rows], completions[rows], mask[rows]))
        log_probs, entropies = zip(*parts, strict=True)
        # a frozen reference computes no entropy
        has_entropy = compute_entropy and entropies[0] is not None
        return torch.cat(log_probs), torch.cat(entropies) if has_entropy else None, None

    def _run_branches(
        self, model, prompts: list[EncodedRow], completions: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Runs each distinct prompt once, with its completions as branches behind it."""
        groups = group_by_prompt(prompts)
        batch = self.prompt_collator([join_completions(prompts, group, completions, mask) for group in groups])
        batch.pop("only_needed_logits", None)
        batch = {name: value.to(completions.device) for name, value in batch.items()}
        is_scored = batch["labels"][:, 1:] != IGNORE_INDEX
        with self.accelerator.autocast():
            output = model(**batch, fused_lm_head=True)
        # the scored positions stand row by row and branch by branch, as the rows of the groups do
        order = torch.tensor(sum(groups, []), device=completions.device)
        back = order.argsort()

        def by_row(values: torch.Tensor) -> torch.Tensor:
            return values.new_zeros(mask.shape).masked_scatter(mask[order], values[is_scored])[back]

        return by_row(output.log_probs), None if output.entropy is None else by_row(output.entropy)

    # -- the model card ------------------------------------------------------------------------------------------------

    def _describe_training(self, dataset) -> str:
        args = self.args
        weights = self.reward_weights.tolist()
        rewards = ", ".join(
            name if weight == 1 else f"{name} (weight {weight:g})"
            for name, weight in zip(self.reward_func_names, weights, strict=True)
        )
        means = next((log for log in reversed(self.state.log_history) if "reward" in log), {})
        lines = [
            super()._describe_training(dataset),
            f"- GRPO ([arXiv 2402.03300](https://arxiv.org/abs/2402.03300)) by TRL {version('trl')}, loss "
            f"`{args.loss_type}`: groups of {args.num_generations} completions of at most {args.max_completion_length} "
            f"tokens, temperature {args.temperature:g}, beta {args.beta:g}, epsilon {args.epsilon:g}",
            f"- rewards: {rewards}",
        ]
        if "reward" in means:
            lines.append(f"- last mean reward {means['reward']:.4f}")
        return "\n".join(lines)

    # -- evaluation and going on ---------------------------------------------------------------------------------------

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluates rows, as the constructor takes them, without a change of the random numbers that training draws."""
        num_known = len(self._rows)
        if eval_dataset is not None:
            eval_dataset = self._index_table(eval_dataset)
        states = random_states()
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            restore_random_states(states)
            del self._rows[num_known:]


class _Position(TrainerCallback):
    """The callback tells the trainer where in the data it is: TRL counts from 0, also where a run goes on."""

    def __init__(self, trainer: OmniVinciGRPOTrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Sets the number of batches that were seen before, and forgets completions of another run."""
        epoch, num_steps = divmod(state.global_step, _steps_of_epoch(args, train_dataloader))
        num_batches = 0 if args.ignore_data_skip else num_steps * args.gradient_accumulation_steps
        self.trainer._step = epoch * len(train_dataloader) + num_batches
        self.trainer._buffered_inputs = None

    def on_epoch_begin(self, args, state, control, train_dataloader=None, **kwargs):
        """Sets the epoch, which the sampler reads: accelerate's `set_epoch` does not reach it in every loader."""
        self.trainer.train_epoch = state.global_step // _steps_of_epoch(args, train_dataloader)


def _steps_of_epoch(args, train_dataloader) -> int:
    """Counts the steps of an epoch as Transformers does; the last one may have fewer batches."""
    return max(1, math.ceil(len(train_dataloader) / args.gradient_accumulation_steps))
