"""The background process of one attempt: it holds the lease, sends heartbeats, publishes, and sends metric rows.

May import: root, run, checkpoint, stores, tracking, published, views. Imported by: kernel, engine, city.
"""
