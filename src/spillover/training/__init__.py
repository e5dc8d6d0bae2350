"""Fine-tuning: adapters on a frozen base, schedules, checkpoints."""
