"""Code of a replica: one model behind KServe v2 and, for embeddings, OpenAI's API.

This package is pickled by value and sent to replicas: it imports nothing of Modelium, and torch,
transformers, diffusers and onnxruntime only where it loads a model.
"""
