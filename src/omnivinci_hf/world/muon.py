"""This module updates with Muon what has two dimensions, and with AdamW tables and the rest (Jordan et al., 2024,
https://kellerjordan.github.io/posts/muon/; Liu et al., arXiv 2502.16982). The small model learns faster with it at
first.
"""

from typing import Any

import torch
from torch import nn


MUON_RATE = 3.0  # times that of AdamW


def check_muon() -> None:
    """Sees to it that PyTorch has Muon.

    Raises:
        ImportError: with a PyTorch before 2.9, which has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ImportError(f"Muon needs PyTorch 2.9 or newer, this is {torch.__version__}.")


def matrices_of(model: nn.Module, *apart: nn.Module) -> list[nn.Parameter]:
    """Lists what Muon is for: learning parameters of two dimensions, without tables and the weights of `apart`."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    ids = {id(module.weight) for module in (*tables, *apart)}
    return [value for value in model.parameters() if value.requires_grad and value.ndim == 2 and id(value) not in ids]


class MuonWithAdamW(torch.optim.Optimizer):
    """This optimizer joins [`torch.optim.Muon`] and [`torch.optim.AdamW`].

    Args:
        groups (`list[dict]`): parameters with their `lr` (of AdamW; Muon takes [`MUON_RATE`] times that) and
            `weight_decay`.
        matrices (`list[nn.Parameter]`): those of them, of two dimensions, that Muon updates.
        betas (`tuple[float, float]`): of AdamW.
    """

    def __init__(self, groups: list[dict], matrices: list[nn.Parameter], betas: tuple[float, float] = (0.9, 0.98)):
        check_muon()
        ids = {id(matrix) for matrix in matrices}
        sides: tuple[list[dict], list[dict]] = ([], [])
        for group in groups:
            for side, is_muon in zip(sides, (True, False), strict=True):
                if params := [value for value in group["params"] if (id(value) in ids) == is_muon]:
                    rate = group["lr"] * (MUON_RATE if is_muon else 1.0)
                    decay = group.get("weight_decay", 0.0)
                    side.append({"params": params, "lr": rate, "weight_decay": decay})
        super().__init__([*sides[0], *sides[1]], {})
        muon, adamw = self.param_groups[: len(sides[0])], self.param_groups[len(sides[0]) :]
        self.parts: list[torch.optim.Optimizer] = []
        if muon:
            self.parts.append(torch.optim.Muon(muon, adjust_lr_fn="match_rms_adamw"))
        if adamw:
            self.parts.append(torch.optim.AdamW(adamw, betas=betas))
        self._share_groups()

    @torch.no_grad()
    def step(self, closure=None):
        """Takes a step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The states of both, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the states of both."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._share_groups()

    def _share_groups(self) -> None:
        """A schedule of this optimizer sets the rates of its parts."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
