"""What the teacher says about each recorded view: extraction, the store on disk, and targets for training."""
