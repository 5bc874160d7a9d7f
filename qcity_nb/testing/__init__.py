"""Shipped test tools: contract suites, chaos."""
