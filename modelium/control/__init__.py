"""What drives the stages: the loop, waiting requests, operators, and recovery after a restart."""
