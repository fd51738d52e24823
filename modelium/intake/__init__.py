"""How drops enter: the watcher of the drop zone, and the model repository on disk.

File work only, no store: the ingest stage decides what a drop means for the registry.
"""
