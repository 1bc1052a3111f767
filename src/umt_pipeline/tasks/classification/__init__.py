"""Action recognition: a classifier fine-tuned on labelled clips."""
