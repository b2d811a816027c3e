"""Average the encoders of several checkpoints into one."""
