"""The papermill engine, in the attempt's own process: what to skip, the kernel's process, the executed notebook.

May import: root, run, cells, stores, sidecar, kernel. Imported by: cli.
"""
