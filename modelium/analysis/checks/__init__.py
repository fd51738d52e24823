"""What may be dropped at all: unpacking, safety, completeness, content digest."""
