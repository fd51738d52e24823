"""The planner over recorded traffic on simulated devices."""
