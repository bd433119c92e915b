"""This script is one of several processes that train together; each writes what it ends with.

It writes the weights after some steps, the gradients of one step beside those of all rows, and the rows of a run beside
those of one that goes on in its second epoch.
"""

import sys

import torch
from accelerate.utils import gather_object
from transformers import TrainerCallback

from omnivinci_hf.omnivinci.generation_omnivinci import bare_model
from tests.support.grpo_data import make, prompt_row


def train_in_step(folder):
    options = {"beta": 0.05, "num_iterations": 2, "max_steps": 4, "num_generations": 4}
    trainer = make(folder, per_device_train_batch_size=6, **options)
    if trainer.args.process_index == 0:
        torch.save(trainer.model.state_dict(), f"{folder}/before.pt")
    trainer.train()
    torch.save(trainer.model.state_dict(), f"{folder}/{trainer.args.process_index}.pt")


class Gradients(TrainerCallback):
    """The callback keeps the gradients of a step."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {
            name.removeprefix("module."): value.grad.clone()
            for name, value in model.named_parameters()
            if value.grad is not None
        }


def compare_gradients(folder):
    trainer = make(folder, per_device_train_batch_size=6, num_generations=4, max_steps=1, max_grad_norm=0.0)
    callback, generated = Gradients(), []
    trainer.add_callback(callback)
    generate = trainer._generate_and_score_completions

    def generate_and_note(inputs):
        output = generate(inputs)
        numbers = [one["row"] for one in inputs]
        masks = output["completion_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(output["completion_ids"], masks, strict=True)]
        generated.extend(zip(numbers, ids, output["advantages"].tolist(), strict=True))
        return output

    trainer._generate_and_score_completions = generate_and_note
    trainer.train()
    rows = gather_object(generated)
    fresh = make(f"{folder}/alone", per_device_train_batch_size=6, num_generations=4)
    model, loss = bare_model(fresh.model), 0.0
    num_tokens = sum(len(ids) for _, ids, _ in rows)
    for number, ids, advantage in rows:
        prompt, answer = fresh._encode(number, fresh._row(number)), torch.tensor(ids)
        media = {key: value for key, value in prompt.media.items() if not key.startswith(("video_has", "audio_from"))}
        whole = torch.cat((prompt.ids, answer))[None]
        log_probs = (
            model(input_ids=whole, attention_mask=torch.ones_like(whole), **media).logits[0, :-1].log_softmax(-1)
        )
        scored = log_probs[len(prompt.ids) - 1 :].gather(1, answer[:, None])
        loss = loss - advantage * scored.sum() / num_tokens
    loss.backward()
    expected = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    gradients = {name: value for name, value in callback.gradients.items() if name in expected or value.any()}
    torch.save((gradients, expected), f"{folder}/gradients{trainer.args.process_index}.pt")


def go_on(folder):
    questions = ("What is heard?", "Which shape is red?", "Is it loud?", "Who?", "Which sound?", "second")
    rows = [prompt_row(None, number, question) for number, question in enumerate(questions)]
    options = {"per_device_train_batch_size": 4, "num_generations": 4, "max_steps": 6}
    seen = []
    for checkpoint in (None, f"{folder}/checkpoint-4"):
        trainer = make(folder, rows, save_strategy="steps", save_steps=4, **options)
        numbers = []
        generate = trainer._generate_and_score_completions
        trainer._generate_and_score_completions = lambda inputs, generate=generate, numbers=numbers: (
            numbers.append([one["row"] for one in inputs]) or generate(inputs)
        )
        trainer.train(resume_from_checkpoint=checkpoint)
        seen.append(numbers)
    torch.save(seen, f"{folder}/rows{trainer.args.process_index}.pt")


if __name__ == "__main__":
    train_in_step(sys.argv[1])
    compare_gradients(sys.argv[1])
    go_on(f"{sys.argv[1]}")
