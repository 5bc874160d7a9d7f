"""What surrounds the variables: the process's own settings and those of libraries."""
