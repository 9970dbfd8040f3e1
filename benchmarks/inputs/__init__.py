"""Inputs of measurements: models, texts, judged queries."""
