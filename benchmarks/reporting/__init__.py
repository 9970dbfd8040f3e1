"""Reports of measurements: results as JSON, goals, tables and plots."""
