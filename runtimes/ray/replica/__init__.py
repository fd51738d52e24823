"""What runs inside a replica: one model behind KServe v2 and, for embeddings, OpenAI's API.

This package travels to replicas as a pickle, by value: it imports nothing of Modelium, and
torch, transformers, diffusers and onnxruntime only where a model is loaded.
"""

from runtimes.ray.replica.replica import Replica

__all__ = ["Replica"]
