"""What is not as it was when the run was saved (items, code, environment, state), and how people hear of it."""
