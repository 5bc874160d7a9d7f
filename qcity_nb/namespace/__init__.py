"""The variables of a notebook's kernel: takes a snapshot of them, and restores it into a new process.

    snapshotter = NamespaceSnapshotter(shell.user_ns)
    snapshot = snapshotter.capture()             # groups of variables, each a stream and its buffers
    not_saved = snapshotter.restore(groups, snapshot.modules, snapshot.not_saved)

It builds on ``checkpoint``, which defines a captured state, and does not depend on sessions, engines or stores.

May import: root, checkpoint, cells. Imported by: kernel, interactive, cli.
"""
