"""What a device computes with, and how fast: the precision of all work, the peak that utilisation is measured against."""
