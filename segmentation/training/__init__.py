"""Training loop, optimizer step, losses, schedules, augmentation, checkpoints and process groups."""
