"""Mutation testing: find the small changes of the code that no unit test notices."""
