"""iGibson as a simulator: an adapter here, and a worker process in an environment of its own."""
