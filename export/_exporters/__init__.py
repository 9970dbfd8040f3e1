"""The two ways to a graph: written by crossrank, or traced by optimum."""
