"""One module per model format; each turns a folder into a `ModelProfile`."""
