"""llama.cpp: one server process per GGUF model."""
