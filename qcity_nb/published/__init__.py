"""What can be done with a run from its store alone, while no attempt of it is alive: read, list, prune, send its
rows.

May import: root, run, checkpoint, stores, tracking. Imported by: sidecar, cli.
"""
