"""A trainer for recipes: a learning rate per part of the model, both losses in the log."""

import torch
from transformers import Trainer

from ..hub.trainer import HubTrainerMixin
from .collator import IGNORE_INDEX, OmniVinciDataCollator
from .recipe import Recipe, module_of


class OmniVinciTrainer(HubTrainerMixin, Trainer):
    """
    [`~transformers.Trainer`], which trains these models as it is, and in addition:

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
        self._losses: dict[str, dict[str, torch.Tensor]] = {"train": {}, "eval": {}}

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.recipe is None or self.optimizer is not None:
            return super().create_optimizer(model)
        model = self.model if model is None else model
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        if options.keys() & {"params", "model", "optimizer_dict"}:
            raise ValueError(f"`optim`={self.args.optim} makes its own parameter groups and cannot follow a recipe.")
        self.optimizer = optimizer_class(self.parameter_groups(model), **options)
        return self.optimizer

    def parameter_groups(self, model) -> list[dict]:
        """What learns, by part of the recipe and whether it decays: `params`, `lr` and `weight_decay`."""
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[str, bool], dict] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                key = module_of(name.removeprefix("module.")), name in decayed
                group = groups.setdefault(
                    key,
                    {
                        "params": [],
                        "lr": self.recipe.learn[key[0]],
                        "weight_decay": self.args.weight_decay if key[1] else 0.0,
                    },
                )
                group["params"].append(parameter)
        return list(groups.values())

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
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
        sums = self._losses[phase]
        sums.setdefault("first_step", self.state.global_step)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value.float()
        sums["batches"] = sums.get("batches", 0.0) + 1

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and (sums := self._losses["train"]):
            self._losses["train"] = {}
            logs.update(self._mean_losses(sums, self.state.global_step - sums["first_step"]))
        if isinstance(self.data_collator, OmniVinciDataCollator):
            count = torch.tensor([self.data_collator.num_skipped], device=self.args.device)
            if skipped := int(self.accelerator.gather(count).sum()):
                logs["skipped_rows"] = skipped
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        if prediction_loss_only and "labels" in inputs:
            # nobody sees the logits: at positions where no row has a label they would only take memory
            learned = (inputs["labels"][:, 1:] != IGNORE_INDEX).any(0).nonzero()[:, 0]
            inputs = {**inputs, "logits_to_keep": learned}
        return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def evaluation_loop(self, *args, metric_key_prefix: str = "eval", **kwargs):
        self._losses["eval"] = {}
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        if sums := self._losses["eval"]:
            output.metrics.update(self._mean_losses(sums, sums["batches"], f"{metric_key_prefix}_"))
        return output

    def _mean_losses(self, sums: dict, count: float, prefix: str = "") -> dict[str, float]:
        return {
            prefix + name: round(self.accelerator.gather(sums[name].reshape(1)).mean().item() / max(count, 1), 6)
            for name in ("language_loss", "omni_align_loss")
        }

    def _describe_rate(self) -> str:
        if self.recipe is None:
            return super()._describe_rate()
        return ", ".join(f"{part} {rate:g}" for part, rate in self.recipe.learn.items())


def _check_arguments(args) -> None:
    if args.label_smoothing_factor:
        raise ValueError("`label_smoothing_factor` is not supported: Trainer's own does not shift the labels here.")
    if args.n_gpu > 1:
        raise ValueError(
            f"One process sees {args.n_gpu} GPUs, and torch's DataParallel cannot deal out media: start one process "
            "for each with `accelerate launch`, or let it see one (CUDA_VISIBLE_DEVICES=0)."
        )
