"""An artifact's folder and what describes the model in it."""
