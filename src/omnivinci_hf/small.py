"""This module gives the small trained checkpoint that comes with the package."""

from .world.small_checkpoint import small_checkpoint


__all__ = ["small_checkpoint"]
