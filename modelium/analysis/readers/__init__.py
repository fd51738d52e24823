"""Bounded readers of file formats: headers only, nothing followed outside the folder."""
