"""This package is for the Hub: model cards, folders that are whole, checkpoints to resume from, trainers that push.

The trainers are imported when they are first used, because they need PyTorch.
"""

from typing import TYPE_CHECKING

import lazy_loader


if TYPE_CHECKING:
    from .trainer import HubTrainer as HubTrainer
    from .trainer import HubTrainerMixin as HubTrainerMixin

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"trainer": ["HubTrainer", "HubTrainerMixin"]}
)
