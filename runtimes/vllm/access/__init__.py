"""What vLLM's own process imports: on its PYTHONPATH, standard library only."""
