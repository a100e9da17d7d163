"""What the gateway's benchmark puts in front of one nginx: ours, and the others."""
