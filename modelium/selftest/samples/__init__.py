"""Writers of tiny models with random weights, one per format. They need numpy and nothing else."""
