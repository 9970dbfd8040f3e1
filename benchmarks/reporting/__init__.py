"""What is said of it: results as JSON, goals, tables and plots."""
