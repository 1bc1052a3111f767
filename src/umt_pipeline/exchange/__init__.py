"""Published checkpoint files to model folders and back."""
