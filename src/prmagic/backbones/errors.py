"""What can go wrong with weights."""


class CheckpointError(RuntimeError):
    """Weights that are missing, broken or of another kind; the message says what to do."""
