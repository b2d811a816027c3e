"""Fine-tuning: parameter groups and schedule, the Accelerate loop, exact resume."""
