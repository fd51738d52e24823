"""What runtimes with one process per model share: vLLM and llama.cpp."""
