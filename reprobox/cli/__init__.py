"""The command line: a click group, a file a command, and console.py for everything that is written to the terminal."""
