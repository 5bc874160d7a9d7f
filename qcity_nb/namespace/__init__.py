"""The variables of a notebook's kernel: a snapshot of them, and back into a new process.

    space = Space(shell.user_ns)
    shot = space.capture()                       # groups of variables, each a stream and its buffers
    absent = space.restore(groups, shot.modules, shot.absent)

It stands on ``checkpoint``, which says what a captured state is; it knows nothing of sessions, engines or stores.

May import: root, checkpoint, cells. Imported by: kernel, interactive, cli.
"""
