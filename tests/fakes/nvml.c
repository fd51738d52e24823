/* A stand-in for the NVIDIA driver's NVML, loaded by the real pynvml.
 *
 * All answers come from the tab-separated file at FAKE_NVML_TABLE, which is read at each call:
 *   init  <nvml error code>
 *   gpu   <uuid> <name> <total> <reserved> <used by others> <utilization %> <error code> <mig>
 *   proc  <uuid> <pid> <bytes>
 * A process counts only while it is alive, as with the real driver. Without a table, the "driver"
 * is not loaded. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, BAD_ARG = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9 };
enum { MAX_GPUS = 16, MAX_PROCS = 128 };

typedef struct { char uuid[96], name[96]; unsigned long long total, reserved, used; unsigned util; int error; unsigned mig; } Gpu;
typedef struct { char uuid[96]; unsigned pid; unsigned long long bytes; } Proc;
typedef struct { int init, gpus, procs; Gpu gpu[MAX_GPUS]; Proc proc[MAX_PROCS]; } Table;

static int alive(unsigned pid) {
    char path[64], text[512], *end;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    end = strrchr(text, ')');
    return end && end[1] == ' ' && end[2] != 'Z' && end[2] != 'X';
}

static int read_table(Table *t) {
    char line[512];
    const char *path = getenv("FAKE_NVML_TABLE");
    FILE *f = path ? fopen(path, "r") : NULL;
    memset(t, 0, sizeof *t);
    if (!f) return NO_DRIVER;
    while (fgets(line, sizeof line, f)) {
        Gpu *g = &t->gpu[t->gpus];
        Proc *p = &t->proc[t->procs];
        if (sscanf(line, "init\t%d", &t->init) == 1) continue;
        if (t->gpus < MAX_GPUS && sscanf(line, "gpu\t%95[^\t]\t%95[^\t]\t%llu\t%llu\t%llu\t%u\t%d\t%u", g->uuid, g->name,
                   &g->total, &g->reserved, &g->used, &g->util, &g->error, &g->mig) == 8) { t->gpus++; continue; }
        if (t->procs < MAX_PROCS && sscanf(line, "proc\t%95[^\t]\t%u\t%llu", p->uuid, &p->pid, &p->bytes) == 3 && alive(p->pid)) t->procs++;
    }
    fclose(f);
    return t->init;
}

/* A handle is the index + 1; all other calls for a GPU with an error code fail with that code. */
static int find(void *handle, Table *t, Gpu **gpu) {
    int error = read_table(t);
    long index = (long)handle - 1;
    if (error) return error;
    if (index < 0 || index >= t->gpus) return BAD_ARG;
    *gpu = &t->gpu[index];
    return (*gpu)->error;
}

static unsigned long long used(const Table *t, const Gpu *g) {
    unsigned long long sum = g->used;
    for (int i = 0; i < t->procs; i++) if (!strcmp(t->proc[i].uuid, g->uuid)) sum += t->proc[i].bytes;
    return sum > g->total - g->reserved ? g->total - g->reserved : sum;
}

int nvmlInitWithFlags(unsigned flags) { Table t; (void)flags; return read_table(&t); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case OK: return "Success";
    case NO_DRIVER: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Error";
    }
}

int nvmlSystemGetDriverVersion(char *out, unsigned n) { snprintf(out, n, "580.00"); return OK; }

int nvmlDeviceGetCount_v2(unsigned *n) {
    Table t;
    int error = read_table(&t);
    *n = (unsigned)t.gpus;
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    Table t;
    int error = read_table(&t);
    if (error) return error;
    if (index >= (unsigned)t.gpus) return BAD_ARG;
    *handle = (void *)(long)(index + 1);
    return t.gpu[index].error;
}

int nvmlDeviceGetUUID(void *h, char *out, unsigned n) {
    Table t; Gpu *g; int error = find(h, &t, &g);
    if (!error) snprintf(out, n, "%s", g->uuid);
    return error;
}

int nvmlDeviceGetName(void *h, char *out, unsigned n) {
    Table t; Gpu *g; int error = find(h, &t, &g);
    if (!error) snprintf(out, n, "%s", g->name);
    return error;
}

int nvmlDeviceGetMemoryInfo(void *h, struct { unsigned long long total, free, used; } *m) {
    Table t; Gpu *g; int error = find(h, &t, &g);
    if (error) return error;
    m->total = g->total;
    m->used = used(&t, g) + g->reserved;
    m->free = m->total - m->used;
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *h, struct { unsigned version; unsigned long long total, reserved, free, used; } *m) {
    Table t; Gpu *g; int error = find(h, &t, &g);
    if (error) return error;
    m->total = g->total;
    m->reserved = g->reserved;
    m->used = used(&t, g);
    m->free = m->total - m->reserved - m->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *h, struct { unsigned gpu, memory; } *u) {
    Table t; Gpu *g; int error = find(h, &t, &g);
    if (error) return error;
    if (g->util > 100) return NOT_SUPPORTED;
    u->gpu = u->memory = g->util;
    return OK;
}

int nvmlDeviceGetMigMode(void *h, unsigned *current, unsigned *pending) {
    Table t; Gpu *g; int error = find(h, &t, &g);
    if (error) return error;
    if (g->mig > 1) return NOT_SUPPORTED;
    *current = *pending = g->mig;
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n,
        struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } *out) {
    Table t; Gpu *g; int error = find(h, &t, &g);
    unsigned room = *n;
    if (error) return error;
    *n = 0;
    for (int i = 0; i < t.procs; i++) {
        if (strcmp(t.proc[i].uuid, g->uuid)) continue;
        if (out && *n < room) {
            out[*n].pid = t.proc[i].pid;
            out[*n].bytes = t.proc[i].bytes;
            out[*n].gpu_instance = out[*n].compute_instance = 0xFFFFFFFF;
        }
        ++*n;
    }
    return *n > room ? TOO_SMALL : OK;
}

int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *out) { Table t; Gpu *g; int e = find(h, &t, &g); (void)sensor; if (!e) *out = 40; return e; }
int nvmlDeviceGetPowerUsage(void *h, unsigned *out) { Table t; Gpu *g; int e = find(h, &t, &g); if (!e) *out = 100000; return e; }

int nvmlDeviceGetIndex(void *h, unsigned *index) {
    unsigned count = 0;
    nvmlDeviceGetCount_v2(&count);
    for (unsigned i = 0; i < count; i++) {
        void *other;
        if (!nvmlDeviceGetHandleByIndex_v2(i, &other) && other == h) { *index = i; return 0; }
    }
    return 2; /* invalid argument */
}

int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle) {
    unsigned count = 0;
    nvmlDeviceGetCount_v2(&count);
    for (unsigned i = 0; i < count; i++) {
        char name[96];
        if (nvmlDeviceGetHandleByIndex_v2(i, handle)) continue;
        if (!nvmlDeviceGetUUID(*handle, name, sizeof name) && !strcmp(name, uuid)) return 0;
    }
    return 6; /* not found */
}
