"""One reader per model format: from a folder to a `ModelProfile`."""
