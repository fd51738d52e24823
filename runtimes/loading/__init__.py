"""What all drivers share about a load: single flight, device turns, settings, failures."""
