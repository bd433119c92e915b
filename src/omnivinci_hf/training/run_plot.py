"""This module plots what a run of reinforcement came to: rewards, their spread, lengths, entropy and divergence."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers.utils import is_matplotlib_available, logging


logger = logging.get_logger(__name__)
# the panels: a title, and which figures of the log each has, as regular expressions
PANELS = {
    "reward": r"reward|rewards/(.+)/mean",
    "spread of the rewards of a prompt": r"reward_std_in_groups",
    "prompts whose rewards are all the same": r"frac_reward_zero_std",
    "tokens of a completion": r"completions/(mean|max)_length",
    "entropy": r"entropy",
    "divergence from the reference": r"kl",
}


def plot_run(log_history: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draws the log of a run to a file, evaluations as points; without matplotlib it says so and draws nothing."""
    if not is_matplotlib_available():
        logger.warning("The run is not plotted: that needs the package matplotlib (pip install matplotlib).")
        return
    from matplotlib.figure import Figure

    shown = {title: curves for title, names in PANELS.items() if (curves := _curves(log_history, names))}
    if not shown:
        logger.warning("The run is not plotted: nothing was logged; lower `logging_steps`.")
        return
    figure = Figure(figsize=(11, 2.6 * ((len(shown) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(shown) + 1) // 2, 2, squeeze=False).flatten()
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    for axes, (title, curves) in zip(panels, shown.items(), strict=False):
        for name, points in curves.items():
            style = "o" if name.startswith("eval_") else "-"
            axes.plot(*zip(*points, strict=True), style, label=name, markersize=4)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)


def _curves(log_history: Sequence[Mapping[str, Any]], names: str) -> dict[str, list[tuple[int, float]]]:
    """Collects figures of the log, `(step, value)` each, by their names."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for log in log_history:
        for name, value in log.items():
            if value is not None and re.fullmatch(rf"(?:eval_)?(?:{names})", name):
                curves.setdefault(name, []).append((log["step"], value))
    return curves
