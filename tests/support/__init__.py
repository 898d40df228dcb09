"""What tests share: runs, sweeps, crashes, child processes."""
