"""One distrustful reader of what the runtime wrote into a run's record folder (formats: `runtime/protocol.py`).

The training program can write there whatever it likes. Nothing in it is trusted: links and special files are not
opened, sizes and numbers have limits, and what is not of the agreed form is left out with a warning. No input hangs
reprobox, costs a run its manifest, or takes much more memory than an honest record of that length.
"""
