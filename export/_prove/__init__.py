"""What a graph is held against."""
