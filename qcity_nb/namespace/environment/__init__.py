"""The settings around the variables: of the process and of libraries."""
