"""Readers of file formats, with limits: they read headers only and stay inside the folder."""
