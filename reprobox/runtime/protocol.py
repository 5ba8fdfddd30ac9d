"""How the runtime, inside the training process, and the host talk: by files in the record folder, nothing else.

The host writes `config.json` there and names the folder in the start file (bootstrap/start_file.py); the runtime writes
the other files. This module is read on both sides, so it keeps to Python 3.9 and imports nothing.

config.json   {"seed": int, "seed_scheme": 1, "deterministic": bool, "threads": int, "digest_every": int,
              "loader_seeding": "worker" | "batch", "variables": {NAME: value}}
              variables are set where the program's environment lacks them
processes     a line for each Python process in which the runtime started, and for each command that one launched;
              fields are separated by tabs (see processes.py):
                  started   PID  PARENT  START  STACK  EXECUTABLE
                  loaded    PID  MODULE
                  launched  PID  ARGUMENTS
              process IDs are those inside the container; START and STACK are fields 22 and 28 of /proc/PID/stat;
              MODULE is torch or numpy;
              ARGUMENTS is a list of texts in JSON
stream-NNN.records   one stream for each process that recorded; NNN is its rank, else its place among its siblings
facts-NNN.json       what that process was: versions, effective flags, data loaders, warnings
facts-pPID.json      the same of a program that recorded nothing, so that it has no stream
entropy-PID-N.json   what drew on the outside world in one process, data loaders' workers included:
                     {"entropy": [{"what", "where", "count"}], "derived": [the same, of generators given a seed],
                     "own": [the same, of seeds that the program set for generators that everyone draws from]}
worker-PID-N.json    from which states a data loader's worker started, of the first epochs: {"base_seed": in decimal,
                     what torch drew for the epoch, "worker": int, "rank": int, "states": {GENERATOR: digest}}

A stream is UTF-8 text, a record a line, fields separated by tabs; a last line without its newline is not yet written.
The first field is the kind, so that new kinds can be added and unknown ones passed over:

    reprobox-stream  1
    loss   STEP  OPTIMIZER_STEP  DTYPE  BITS  [EVENT  SCALE]
                             the scalar whose gradients were asked for: BITS in hex, big-endian. EVENT says how:
                             backward (the default), grad (torch.autograd.grad) or func (torch.func); SCALE is the
                             factor by which it is known to have been multiplied before (the default is 1)
    step   OPTIMIZER_STEP  OPTIMIZER
                             an optimizer stepped (OPTIMIZER numbers them as first seen)
    skip   OPTIMIZER_STEP  OPTIMIZER
                             a GradScaler found infinite gradients, so the parameters stayed as they were
    digest OPTIMIZER_STEP  WHAT  OPTIMIZER  VALUE
                             64 bits in hex over all bits of `gradients` or `weights` of one optimizer, or over the
                             state of the random generators (`rng`), right after that step (see digests.py); of
                             `batch`: over what data loader number OPTIMIZER gave before that step
    metric NAME  STEP  DTYPE  BITS
                             a number that the program logged after STEP losses: BITS as of a loss
    end    WEIGHTS           the process ended normally: sha256 of all optimized parameters, or -

STEP counts the losses of a stream from 0, OPTIMIZER_STEP the calls of optimizers' step() before the record; the
OPTIMIZER_STEP of a digest is that of the `step` which it follows. Gradients are digested after the first step of each
optimizer, weights and random states after it and then after every DIGEST_EVERY of its steps, a batch before these.
"""

STREAM_VERSION = 1
CONFIG_FILE = "config.json"
PROCESSES_FILE = "processes"
STREAM_PREFIX = "stream-"
STREAM_SUFFIX = ".records"
# So that digests cost well under 1 % of a step of GPT-2 124M on an H100, and 5 microseconds a step of a tiny CPU model.
DEFAULT_DIGEST_EVERY = 25
# Ways of seeding what data loaders do: as torch does, each worker process, or each batch by itself.
SEED_WORKERS = "worker"
SEED_BATCHES = "batch"
FACTS_PREFIX = "facts-"
FACTS_SUFFIX = ".json"
ENTROPY_PREFIX = "entropy-"
ENTROPY_SUFFIX = ".json"
WORKER_PREFIX = "worker-"
WORKER_SUFFIX = ".json"
# What is added to a seed that only a child process of the program set.
IN_A_CHILD = " in a child process"
STREAM_HEADER = "reprobox-stream\t%d\n" % STREAM_VERSION
