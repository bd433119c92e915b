"""A small model for the made-up world, and how it is trained."""
