"""What every other room stands on: errors, configuration, files, identity."""
