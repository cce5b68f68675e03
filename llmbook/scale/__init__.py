"""Training that survives and grows: checkpoints, several processes, text larger than memory."""
