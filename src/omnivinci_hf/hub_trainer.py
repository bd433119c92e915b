"""Trainers whose push is fit for the Hub: a card of this package, and no pickle files."""

from pathlib import Path

from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME

from .model_card_omnivinci import card_of_model


# what Transformers' trainer writes with pickle, there and in its checkpoints
PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl")


class HubTrainerMixin:
    """Stands before any trainer that descends from Transformers': `class MyTrainer(HubTrainerMixin, SFTTrainer)`.

    The training arguments are kept as JSON instead of a pickle, and pickles of training checkpoints (the optimizer's
    state) stay on this machine. A README.md that the folder or the repository has already is left alone.
    """

    def init_hf_repo(self, *args, **kwargs) -> None:
        super().init_hf_repo(*args, **kwargs)
        ignore = Path(self.args.output_dir) / ".gitignore"  # which the Hub obeys
        if self.is_world_process_zero() and not ignore.exists():
            ignore.parent.mkdir(parents=True, exist_ok=True)
            ignore.write_text("\n".join(PICKLES) + "\n", encoding="utf-8")

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        folder = Path(output_dir if output_dir is not None else self.args.output_dir)
        if self.args.should_save:
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            (folder / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")

    def create_model_card(self, license=None, tags=None, model_name=None, dataset=None, dataset_tags=None, **kwargs):
        """As [`Trainer.create_model_card`], from this package's template; `finetuned_from` names the base model."""
        path = Path(self.args.output_dir) / "README.md"
        if not self.is_world_process_zero() or path.exists():
            return
        repo_id = self.hub_model_id or self.args.hub_model_id or model_name or path.parent.name
        if self.hub_model_id and HfApi().file_exists(repo_id, "README.md", token=self.args.hub_token):
            return
        options = {"base_model": kwargs["finetuned_from"]} if kwargs.get("finetuned_from") else {}
        card = card_of_model(
            self.accelerator.unwrap_model(self.model),
            repo_id,
            kind="fine_tuned",
            license=license,
            tags=_as_list(tags),
            datasets=_as_list(dataset_tags),
            training=self._describe_training(dataset),
            **options,
        )
        card.save(path)

    def _describe_training(self, dataset) -> str:
        args, state = self.args, self.state
        lines = [
            f"Trained with `{type(self).__name__}`; steps: {state.global_step}, epochs: {state.epoch or 0:.2f}.",
            "",
            f"- learning rate {args.learning_rate:g}, schedule {_name(args.lr_scheduler_type)}, {_name(args.optim)}",
            f"- batch size {args.train_batch_size} x {args.gradient_accumulation_steps} x {args.world_size}",
            f"- seed {args.seed}",
        ]
        if names := _as_list(dataset):
            lines.append(f"- data: {', '.join(names)}")
        losses = [log["loss"] for log in state.log_history if "loss" in log]
        if losses:
            lines.append(f"- last training loss {losses[-1]:.4f}")
        metrics = next((log for log in reversed(state.log_history) if "eval_loss" in log), {})
        lines += [f"- {name} {value:.4f}" for name, value in metrics.items() if name.startswith("eval_")]
        return "\n".join(lines)


class HubTrainer(HubTrainerMixin, Trainer):
    """[`~transformers.Trainer`] with the manners of [`HubTrainerMixin`]."""


def _name(option) -> str:
    return str(getattr(option, "value", option))


def _as_list(value) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())
