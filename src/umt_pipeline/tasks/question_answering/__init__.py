"""Video question answering: generated answers and multiple choice."""
