"""What only the notebooks need: exercises, short trainings, similarity measures."""
