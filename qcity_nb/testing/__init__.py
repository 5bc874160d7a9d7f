"""Shipped test tools: contract suites, chaos.

May import: root, run, stores, tracking, hosts, kernel. Imported by: nobody.
"""
