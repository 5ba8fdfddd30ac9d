"""One file that holds a run and all it needs: a plain zip archive, the same to the bit each time, read warily."""
