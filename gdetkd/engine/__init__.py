"""What runs around the detectors: checkpoints, hooks, training and testing."""
