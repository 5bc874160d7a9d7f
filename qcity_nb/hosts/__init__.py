"""Where we are, and how to launch elsewhere: one module a host."""
