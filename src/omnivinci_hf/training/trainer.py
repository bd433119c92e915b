"""This module trains by recipes, with a learning rate per part of the model and both losses in the log."""

from dataclasses import dataclass, field

import torch
from transformers import Trainer

from ..hub.trainer import HubTrainerMixin
from .collator import IGNORE_INDEX, OmniVinciDataCollator
from .recipe import Recipe, part_of


@dataclass
class _LossSums:
    """The sums hold both losses since a step."""

    first_step: int
    num_batches: int = 0
    totals: dict[str, torch.Tensor] = field(default_factory=dict)

    def add(self, losses: dict[str, torch.Tensor]) -> None:
        self.num_batches += 1
        self.totals = {name: self.totals.get(name, 0.0) + loss for name, loss in losses.items()}


class RecipeTrainerMixin(HubTrainerMixin):
    """A trainer with this mixin has `recipe` (a [`Recipe`] or None), by which every part of the model learns."""

    recipe: Recipe | None = None

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Makes the optimizer, with the learning rates of the recipe if there is one."""
        if self.recipe is None or self.optimizer is not None:
            return super().create_optimizer(model)
        model = self.model if model is None else model
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        if options.keys() & {"params", "model", "optimizer_dict"}:
            raise ValueError(f"`optim`={self.args.optim} makes its own parameter groups and cannot follow a recipe.")
        self.optimizer = optimizer_class(self.parameter_groups(model), **options)
        return self.optimizer

    def parameter_groups(self, model) -> list[dict]:
        """Groups the parameters that learn by their part and by whether they decay: `params`, `lr`, `weight_decay`.

        Raises:
            ValueError: without a recipe, or when a parameter learns for which the recipe has no rate.
        """
        if self.recipe is None:
            raise ValueError("Parameter groups follow a recipe: give `recipe` to the trainer.")
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[str, bool], list[torch.nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                part = part_of(name.removeprefix("module."))
                if part not in self.recipe.learning_rates:
                    raise ValueError(
                        f"{name} learns, but recipe {self.recipe.name!r} has no rate for it: prepare the model with "
                        "`apply_recipe`."
                    )
                groups.setdefault((part, name in decayed), []).append(parameter)
        return [
            {
                "params": parameters,
                "lr": self.recipe.learning_rates[part],
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for (part, decays), parameters in groups.items()
        ]

    def _describe_rate(self) -> str:
        if self.recipe is None:
            return super()._describe_rate()
        return ", ".join(f"{part} {rate:g}" for part, rate in self.recipe.learning_rates.items())


class OmniVinciTrainer(RecipeTrainerMixin, Trainer):
    """
    This trainer is a [`~transformers.Trainer`], which trains these models as it is, and adds to it:

    - `recipe` ([`Recipe`], *optional*) gives every part of the model its own learning rate;
    - the log also has `language_loss` and `omni_align_loss` where the model has an OmniAlignNet (`eval_...` when
      evaluating), and `skipped_rows` once the collator has left out a bad row;
    - columns of the dataset are kept, since the collator reads them;
    - a push has a model card and no pickle files, see [`HubTrainerMixin`].
    """

    def __init__(self, model=None, args=None, *, recipe: Recipe | None = None, **kwargs):
        if args is not None:
            _check_arguments(args)
            args.remove_unused_columns = False
            # each process reads its own rows of a stream: media of a batch cannot be dealt out row by row
            args.accelerator_config.dispatch_batches = False
        super().__init__(model, args, **kwargs)
        self.recipe = recipe
        self._losses: dict[str, _LossSums | None] = {"train": None, "eval": None}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Computes the loss as usual, and notes its two parts for the log."""
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if outputs.get("omni_align_loss") is not None:
            scaled = self.args.average_tokens_across_devices and num_items_in_batch is not None
            scale = self.accelerator.num_processes if scaled else 1  # as the base class has multiplied the sum
            self._note_losses("train" if model.training else "eval", loss.detach(), outputs, scale)
        return (loss, outputs) if return_outputs else loss

    def _note_losses(self, phase: str, loss: torch.Tensor, outputs, scale: int) -> None:
        language = scale * outputs["language_loss"].detach()
        weight = self.accelerator.unwrap_model(self.model).config.omni_align_config.loss_weight
        # the sum has the share of this batch in its step
        parts = {"language_loss": language, "omni_align_loss": (loss - language) / weight}
        sums = self._losses[phase] = self._losses[phase] or _LossSums(self.state.global_step)
        sums.add({name: value.float() for name, value in parts.items()})

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Logs as usual, with both losses and the number of rows that were left out."""
        if "loss" in logs and (sums := self._losses["train"]):
            self._losses["train"] = None
            logs.update(self._mean_losses(sums, self.state.global_step - sums.first_step))
        if isinstance(self.data_collator, OmniVinciDataCollator):
            count = torch.tensor([self.data_collator.num_skipped], device=self.args.device)
            if skipped := int(self.accelerator.gather(count).sum()):
                logs["skipped_rows"] = skipped
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Evaluates a batch as usual, with logits only where a row has labels."""
        if prediction_loss_only and "labels" in inputs:
            # nobody sees the logits: at positions where no row has a label they would only take memory
            positions = (inputs["labels"][:, 1:] != IGNORE_INDEX).any(0).nonzero()[:, 0]
            inputs = {**inputs, "logits_to_keep": positions}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix: str = "eval"
    ):
        """Evaluates as usual, with both losses among the metrics."""
        self._losses["eval"] = None
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        if output.metrics is not None and (sums := self._losses["eval"]):
            output.metrics.update(self._mean_losses(sums, sums.num_batches, f"{metric_key_prefix}_"))
        return output

    def _mean_losses(self, sums: "_LossSums", count: int, prefix: str = "") -> dict[str, float]:
        """The means over all processes, by the names that the log has for them."""
        gathered = {name: self.accelerator.gather(total.reshape(1)).mean() for name, total in sums.totals.items()}
        return {prefix + name: round(total.item() / max(count, 1), 6) for name, total in gathered.items()}


def _check_arguments(args) -> None:
    if args.label_smoothing_factor:
        raise ValueError("`label_smoothing_factor` is not supported: Trainer's own does not shift the labels here.")
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs, and torch's DataParallel cannot deal out media: start one process "
            "for each with `accelerate launch`, or let it see one (CUDA_VISIBLE_DEVICES=0)."
        )
