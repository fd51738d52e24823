"""Faults at every edge: each commit, file operation and driver call of a stage, one after the other.

A scenario is run once to number its points. Then, for each, it is run again with a crash or an
error there. What runs is the service's own recovery and background work, in virtual time.
"""
