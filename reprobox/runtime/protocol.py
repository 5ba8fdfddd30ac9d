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
The first field is the kind. New kinds of records and of digests can be added: who does not know one passes it over.

    reprobox-stream  1
    process ROLE             what this process is: root (the program that was started), rank (of a distributed training)
                             or child (of another: a pool's worker, a program that another one started)
    loss   STEP  OPTIMIZER_STEP  DTYPE  BITS  [EVENT  SCALE]
                             the scalar whose gradients were asked for: BITS in hex, big-endian. EVENT says how:
                             backward (the default), grad (torch.autograd.grad) or func (torch.func); SCALE is the
                             factor by which it is known to have been multiplied before (the default is 1)
    optimizer OPTIMIZER  TRAINING  KIND
                             an optimizer was seen for the first time (OPTIMIZER numbers them as first seen), a KIND of
                             torch's or the program's, - for none: parameters that the program changed by its own hand.
                             TRAINING is the number of the first optimizer that had a parameter of this one's
    step   OPTIMIZER_STEP  OPTIMIZER
                             an optimizer stepped
    skip   OPTIMIZER_STEP  OPTIMIZER
                             a GradScaler found infinite gradients, so the parameters stayed as they were
    digest OPTIMIZER_STEP  WHAT  NUMBER  ROUND  VALUE
                             64 bits in hex over all bits of `gradients` or `weights` of optimizer NUMBER, or over the
                             state of the random generators (`rng`), right after that step (see digests.py), which was
                             that optimizer's step number ROUND, counted from 1; of `batch`: over what data loader
                             NUMBER gave before that step (ROUND is 0)
    tensor OPTIMIZER_STEP  WHAT  OPTIMIZER  NAME  VALUE
                             64 bits in hex over one tensor: a parameter before the first loss (`initial`), its gradient
                             at the first step of its optimizer (`gradient`), a parameter or buffer of a module's state
                             at the end (`state`); OPTIMIZER is - where it is not known whose it is
    metric NAME  AT  STEP  DTYPE  BITS
                             a number that the program logged after AT losses, for its own step STEP (- for none)
    final  OPTIMIZER  SHA256
                             the digest of what an optimizer had optimized, when it was gone or the process ended
    lost   WHAT  REASON      from here on there is no such digest, or (WHAT is final) none of the final weights
    end                      the process ended normally

STEP counts the losses of a stream from 0, OPTIMIZER_STEP the calls of optimizers' step() before the record; the
OPTIMIZER_STEP of a digest is that of the `step` which it follows. Gradients are digested after the first step of each
optimizer, weights and random states after it and then after every DIGEST_EVERY of its steps, a batch before these.
"""

STREAM_VERSION = 1
STREAM_HEADER = "reprobox-stream\t%d\n" % STREAM_VERSION
# What a process is.
ROOT, RANK, CHILD = ROLES = ("root", "rank", "child")
# How the gradients of a loss were asked for.
EVENTS = ("backward", "grad", "func")
# Bytes a number, by torch's name of the dtype.
WIDTHS = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
# What digests are of: all tensors of one kind, or one tensor.
GRADIENTS, WEIGHTS, RANDOM, BATCH = DIGESTED = ("gradients", "weights", "rng", "batch")
INITIAL, GRADIENT, STATE = TENSORS = ("initial", "gradient", "state")
FINAL = "final"
# As many losses, digests and logged numbers one process may record: 16 million losses are 19 days of training at ten a
# second, and at most 128 MB of bits.
MAX_LOSSES = 1 << 24
MAX_DIGESTS = 1 << 22
MAX_LOGGED = 1 << 24
MAX_TENSORS = 100_000
MAX_METRICS = 1000
MAX_OPTIMIZERS = 10_000

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
# How the warning of threads that train at the same time begins.
THREADS = "several threads of one process train at the same time"
# What is added to a seed that only a child process of the program set.
IN_A_CHILD = " in a child process"
