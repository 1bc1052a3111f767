"""Action detection: what each person in a key frame does."""
