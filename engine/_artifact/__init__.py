"""What a model's folder says."""
