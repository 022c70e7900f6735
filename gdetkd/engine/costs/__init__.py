"""What the losses cost in time and memory, beside the forms one would write without thinking."""
