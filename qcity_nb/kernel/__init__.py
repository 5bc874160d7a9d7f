"""What runs inside the notebook's kernel: session, loop, metric log, recorded outputs, panel.

May import: root, run, checkpoint, cells, namespace, tracking, hosts, views, sidecar. Imported by: engine,
interactive, city, cli, testing.
"""
