"""This package is the data engine: it makes omni-modal captions and questions of videos, for explicit learning.

Picture and audio of each segment are captioned apart; a reasoning model corrects and joins the two, and asks questions
about what it found; questions that are wrong, or that one sense alone answers, are dropped.
"""

from .config import EngineConfig, load_config
from .report import format_report, report
from .requests import Medium, Request
from .run import run_engine


__all__ = ["EngineConfig", "Medium", "Request", "format_report", "load_config", "report", "run_engine"]
