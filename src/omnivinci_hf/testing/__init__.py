"""This package makes tiny random checkpoints for tests and examples."""

from .tiny import write_tiny_checkpoint


__all__ = ["write_tiny_checkpoint"]
