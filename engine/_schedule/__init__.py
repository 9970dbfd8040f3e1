"""Many calls on one model: whose turn it is, who works, and what is counted."""
