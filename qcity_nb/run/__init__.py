"""The protocol of a run: lease, observer, policy, keeper, identity, journal, and the mailbox of an attempt's processes.

May import: root. Imported by: hosts, published, sidecar, kernel, engine, city, cli, testing.
"""
