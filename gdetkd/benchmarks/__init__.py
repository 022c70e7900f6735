"""Time and memory of the losses and of a distilled step."""
