"""What is measured on: models, texts, judged queries."""
