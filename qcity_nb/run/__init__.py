"""The protocol of a run: records and journal, lease, policy, keeper, and the mailbox in which one attempt's processes
meet.

May import: root. Imported by: hosts, published, sidecar, kernel, engine, city, cli, testing.
"""
