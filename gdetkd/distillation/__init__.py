"""The components of distillation, the objective that sums them, and the data they exchange."""
