"""Makes a child process believe that its GPU has fewer multiprocessors (SMs), and leaves the card as it is.

How many blocks a kernel gets, and so which thread draws which random number and how a sum is split, often follows from
the number of SMs. A smaller number than the real one is always safe: less of the card is used. Three ways:

* `runtime`: a preloaded library answers for libcudart's cudaGetDeviceProperties and cudaDeviceGetAttribute. It reaches
  whoever uses the shared libcudart: torch's own kernels, where torch is not linked with the static one.
* `driver`: it answers for the driver's cuDeviceGetAttribute, which it slips in where libcudart, shared or static, looks
  the driver's functions up (dlsym, cuGetProcAddress). That reaches cuBLAS and cuDNN too.
* `mps`: a daemon of NVIDIA's multi-process service, started for one child and ended after it, really limits the share
  of the card that the child gets.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MPS", "WAYS", "WAY_VARIABLE", "fewer_sms"]

# What the child reads: which way it is, to record it; and, in the library, the number to tell.
WAY_VARIABLE = "REPROBOX_BENCHMARK_SMS_BY"
NUMBER_VARIABLE = "REPROBOX_BENCHMARK_SMS"
MPS = "mps"

COMMON = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* cudaDevAttrMultiProcessorCount and CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT are the same number. */
enum { SM_COUNT = 16, UNKNOWN = 999 };

static int told(int real) {
    const char *text = getenv("REPROBOX_BENCHMARK_SMS");
    int wanted = text ? atoi(text) : 0;
    return wanted > 0 && wanted < real ? wanted : real;
}
"""

RUNTIME = r"""
/* torch may have loaded libcudart for itself alone, so it is asked for by name first. */
static void *cudart(const char *symbol) {
    static const char *const names[] = {"libcudart.so.13", "libcudart.so.12", NULL};
    for (int i = 0; names[i]; i++) {
        void *library = dlopen(names[i], RTLD_LAZY | RTLD_NOLOAD);
        void *found = library ? dlsym(library, symbol) : NULL;
        if (found) return found;
    }
    return dlsym(RTLD_NEXT, symbol);
}

int cudaDeviceGetAttribute(int *value, int attribute, int device) {
    int (*real)(int *, int, int) = cudart("cudaDeviceGetAttribute");
    int status = real ? real(value, attribute, device) : UNKNOWN;
    if (status == 0 && attribute == SM_COUNT) *value = told(*value);
    return status;
}

/* multiProcessorCount stands at 384 in CUDA 13's structure and at 388 in CUDA 12's, where 384 holds a flag. */
static int properties(const char *symbol, char *structure, int device) {
    int (*real)(void *, int) = cudart(symbol);
    int (*attribute)(int *, int, int) = cudart("cudaDeviceGetAttribute");
    int status = real ? real(structure, device) : UNKNOWN;
    int count = 0;
    if (status != 0 || !attribute || attribute(&count, SM_COUNT, device) != 0) return status;
    for (int offset = 384; offset <= 388; offset += 4) {
        int field;
        memcpy(&field, structure + offset, sizeof field);
        if (field != count) continue;
        field = told(count);
        memcpy(structure + offset, &field, sizeof field);
        break;
    }
    return status;
}

int cudaGetDeviceProperties(void *structure, int device) {
    return properties("cudaGetDeviceProperties", structure, device);
}

int cudaGetDeviceProperties_v2(void *structure, int device) {
    return properties("cudaGetDeviceProperties_v2", structure, device);
}
"""

DRIVER = r"""
static void *(*real_dlsym)(void *, const char *);
static int (*real_attribute)(int *, int, int);
static int (*real_lookup)(const char *, void **, int, uint64_t, void *);
static int (*real_old_lookup)(const char *, void **, int, uint64_t);

static void find_dlsym(void) {
    static const char *const versions[] = {"GLIBC_2.34", "GLIBC_2.2.5", "GLIBC_2.17", NULL};
    for (int i = 0; versions[i] && !real_dlsym; i++) real_dlsym = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    if (!real_dlsym) abort();
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    if (!real_attribute) {
        if (!real_dlsym) find_dlsym();
        void *library = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
        if (library) real_attribute = real_dlsym(library, "cuDeviceGetAttribute");
        if (!real_attribute) return UNKNOWN;
    }
    int status = real_attribute(value, attribute, device);
    if (status == 0 && attribute == SM_COUNT) *value = told(*value);
    return status;
}

static int lookup(const char *symbol, void **found, int version, uint64_t flags, void *status);
static int old_lookup(const char *symbol, void **found, int version, uint64_t flags);

/* Return what is to be used instead of a function of the driver, whose address is kept. `version` is CUDA's, or 0. */
static void *instead(const char *symbol, void *real, int version) {
    if (!real) return real;
    if (!strcmp(symbol, "cuDeviceGetAttribute")) {
        if (real != (void *)cuDeviceGetAttribute) real_attribute = real;
        return (void *)cuDeviceGetAttribute;
    }
    if (!strcmp(symbol, "cuGetProcAddress_v2") || (!strcmp(symbol, "cuGetProcAddress") && version >= 12000)) {
        if (real != (void *)lookup) real_lookup = real;
        return (void *)lookup;
    }
    if (!strcmp(symbol, "cuGetProcAddress")) {
        if (real != (void *)old_lookup) real_old_lookup = real;
        return (void *)old_lookup;
    }
    return real;
}

static int lookup(const char *symbol, void **found, int version, uint64_t flags, void *status) {
    int result = real_lookup(symbol, found, version, flags, status);
    if (result == 0 && found) *found = instead(symbol, *found, version);
    return result;
}

static int old_lookup(const char *symbol, void **found, int version, uint64_t flags) {
    int result = real_old_lookup(symbol, found, version, flags);
    if (result == 0 && found) *found = instead(symbol, *found, version);
    return result;
}

void *dlsym(void *handle, const char *symbol) {
    if (!real_dlsym) find_dlsym();
    if (symbol && symbol[0] == 'c' && symbol[1] == 'u') return instead(symbol, real_dlsym(handle, symbol), 0);
    /* A tail call, with -O2: RTLD_NEXT goes by the address that dlsym returns to. */
    return real_dlsym(handle, symbol);
}
"""
WAYS = {"runtime": COMMON + RUNTIME, "driver": COMMON + DRIVER}


@contextlib.contextmanager
def fewer_sms(way: str, number: int, real: int, folder: Path) -> Iterator[dict[str, str]]:
    """Give the environment for a child that is to see `number` of the `real` SMs; `folder` is a temporary one.

    Raises OSError, or subprocess.SubprocessError, where the way is not open on this machine.
    """
    env = {**os.environ, WAY_VARIABLE: way, NUMBER_VARIABLE: str(number)}
    if way == MPS:
        with _daemon(folder) as places:
            yield env | places | {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": f"{100 * number / real:g}"}
        return
    library = _compiled(way, folder)
    yield env | {"LD_PRELOAD": f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()}


def _compiled(way: str, folder: Path) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("no C compiler (gcc or cc)")
    source, library = folder / f"{way}.c", folder / f"lib{way}.so"
    source.write_text(WAYS[way], encoding="utf-8")
    command = [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        raise OSError(f"{compiler} failed: {done.stderr[-500:]}")
    return library


@contextlib.contextmanager
def _daemon(folder: Path) -> Iterator[dict[str, str]]:
    control = shutil.which("nvidia-cuda-mps-control", path=f"{os.environ.get('PATH', '')}:/usr/local/nvidia/bin")
    if control is None:
        raise FileNotFoundError("no nvidia-cuda-mps-control")
    places = {"CUDA_MPS_PIPE_DIRECTORY": str(folder / "pipe"), "CUDA_MPS_LOG_DIRECTORY": str(folder / "log")}
    for place in places.values():
        Path(place).mkdir()
    env = {**os.environ, **places}
    subprocess.run([control, "-d"], env=env, check=True, timeout=20, capture_output=True)
    try:
        yield places
    finally:
        subprocess.run([control], input="quit\n", text=True, env=env, check=False, timeout=20, capture_output=True)
