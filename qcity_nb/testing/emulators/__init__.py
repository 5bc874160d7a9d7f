"""Stand-ins for services that cannot run here; each names what it reproduces."""
