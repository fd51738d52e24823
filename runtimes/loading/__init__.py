"""What all drivers share about a load: single flight, device locks, settings, failure kinds."""
