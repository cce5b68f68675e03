"""What only the notebooks use: figures, boxes, texts, exercises."""
