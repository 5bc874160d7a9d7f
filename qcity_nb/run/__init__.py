"""The protocol of a run: lease, journal, policies. Standard library only."""
