"""This package reports what a model would see of media, as a table, as JSON and as a picture."""
