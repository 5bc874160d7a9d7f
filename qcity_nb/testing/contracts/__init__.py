"""The suites that every store and tracker must pass."""
