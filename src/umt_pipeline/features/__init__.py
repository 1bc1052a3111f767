"""The teacher's targets of each recorded view: extraction, the store on disk, and providers for training."""
