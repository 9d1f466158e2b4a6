"""Server and worker in separate processes."""
