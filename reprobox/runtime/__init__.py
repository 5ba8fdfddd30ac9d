"""What lives inside the training process: seeding, determinism, data loaders, the recorder.

Standard library only, Python 3.9 and later: this folder is mounted into containers that hold nothing else of reprobox.
torch and NumPy are touched only after the user's own program has imported them.
"""
