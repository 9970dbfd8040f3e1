"""The proof of a graph, and what it is held against."""
