"""Where metrics go: the outbox and MLflow."""
