"""This script is one of several processes that train together; each writes the weights that it ends with."""

import sys

import torch

from tests.support.grpo_data import make


if __name__ == "__main__":
    folder = sys.argv[1]
    options = {"beta": 0.05, "num_iterations": 2, "max_steps": 4, "num_generations": 4}
    trainer = make(folder, per_device_train_batch_size=6, **options)
    if trainer.args.process_index == 0:
        torch.save(trainer.model.state_dict(), f"{folder}/before.pt")
    trainer.train()
    torch.save(trainer.model.state_dict(), f"{folder}/{trainer.args.process_index}.pt")
