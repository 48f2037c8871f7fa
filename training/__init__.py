"""What both trainers share: arguments, run folder, checkpoints, resume, metrics. It knows no model."""
