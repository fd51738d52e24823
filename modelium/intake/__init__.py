"""The folders of models: the watched drop zone, staging, the repository, and what was refused."""
