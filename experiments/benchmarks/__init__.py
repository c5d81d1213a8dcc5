"""What the benchmark times, and on what."""
