"""What a run left behind, as far as it is judged: read on the host, after the program, and never trusted."""
