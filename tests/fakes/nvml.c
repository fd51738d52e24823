/* A stand-in for the NVIDIA driver's NVML, loaded by the real pynvml.
 *
 * All answers come from the tab-separated file at FAKE_NVML_TABLE, which is read at each call:
 *   init    <nvml error code>
 *   text    <system call> <text>
 *   gpu     <row of the parent, or -1> <uuid> <name> <total> <reserved> <used by others>
 *           <utilization %> <error code of all its calls> <mig mode>
 *   answer  <row> <call> <error code> [<number> ...]       replaces the answer of one call
 *   proc    <uuid> <pid> <bytes> [<pid as listed, 0: hidden> <bytes as listed>]
 * Rows count from 0; a gpu with a parent is a MIG instance of it. A process counts while it is
 * alive, as with the real driver; pid 0 always counts. Without a table, the "driver" is not
 * loaded. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long u64;

enum { OK = 0, BAD_ARG = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, NO_FUNCTION = 13 };
enum { MAX_GPUS = 32, MAX_PROCS = 128, MAX_ANSWERS = 512, MAX_TEXTS = 8, NUMBERS = 6 };

typedef struct { int parent; char uuid[96], name[96]; u64 total, reserved, used; unsigned util; int error; unsigned mig; } Gpu;
typedef struct { char uuid[96]; unsigned pid; u64 bytes; unsigned listed; u64 told; } Proc;
typedef struct { int row; char call[64]; int error, count; u64 number[NUMBERS]; } Answer;
typedef struct { char call[64], text[96]; } Text;
typedef struct {
    int init, gpus, procs, answers, texts;
    Gpu gpu[MAX_GPUS]; Proc proc[MAX_PROCS]; Answer answer[MAX_ANSWERS]; Text text[MAX_TEXTS];
} Table;

static int alive(unsigned pid) {
    char path[64], text[512], *end;
    if (!pid) return 1;
    snprintf(path, sizeof path, "/proc/%u/stat", pid);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    end = strrchr(text, ')');
    return end && end[1] == ' ' && end[2] != 'Z' && end[2] != 'X';
}

static void read_answer(char *line, Answer *a) {
    char *field = strtok(line, "\t\n");
    memset(a, 0, sizeof *a);
    a->row = (field = strtok(NULL, "\t\n")) ? atoi(field) : -1;
    if ((field = strtok(NULL, "\t\n"))) snprintf(a->call, sizeof a->call, "%s", field);
    a->error = (field = strtok(NULL, "\t\n")) ? atoi(field) : 0;
    while (a->count < NUMBERS && (field = strtok(NULL, "\t\n"))) a->number[a->count++] = strtoull(field, NULL, 10);
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
        Text *x = &t->text[t->texts];
        if (sscanf(line, "init\t%d", &t->init) == 1) continue;
        if (t->texts < MAX_TEXTS && sscanf(line, "text\t%63[^\t]\t%95[^\n]", x->call, x->text) == 2) { t->texts++; continue; }
        if (t->answers < MAX_ANSWERS && !strncmp(line, "answer\t", 7)) { read_answer(line, &t->answer[t->answers++]); continue; }
        if (t->gpus < MAX_GPUS && sscanf(line, "gpu\t%d\t%95[^\t]\t%95[^\t]\t%llu\t%llu\t%llu\t%u\t%d\t%u", &g->parent, g->uuid, g->name,
                   &g->total, &g->reserved, &g->used, &g->util, &g->error, &g->mig) == 9) { t->gpus++; continue; }
        if (t->procs == MAX_PROCS) continue;
        int fields = sscanf(line, "proc\t%95[^\t]\t%u\t%llu\t%u\t%llu", p->uuid, &p->pid, &p->bytes, &p->listed, &p->told);
        if (fields == 3) { p->listed = p->pid; p->told = p->bytes; }
        if ((fields == 3 || fields == 5) && alive(p->pid)) t->procs++;
    }
    fclose(f);
    return t->init;
}

/* A handle is the row + 1; all calls for a GPU with an error code fail with that code. */
static int find(void *handle, const char *call, Table *t, Gpu **gpu, Answer **answer) {
    int error = read_table(t);
    long row = (long)handle - 1;
    *answer = NULL;
    if (error) return error;
    if (row < 0 || row >= t->gpus) return BAD_ARG;
    *gpu = &t->gpu[row];
    if ((*gpu)->error) return (*gpu)->error;
    for (int i = 0; i < t->answers; i++) {
        if (t->answer[i].row != row || strcmp(t->answer[i].call, call)) continue;
        if (t->answer[i].error) return t->answer[i].error;
        *answer = &t->answer[i];
    }
    return OK;
}

/* Answer with numbers of the table, else with the given ones; all of type unsigned. */
static int numbers(void *h, const char *call, int count, unsigned **out, const unsigned *otherwise) {
    Table t; Gpu *g; Answer *a; int error = find(h, call, &t, &g, &a);
    if (error) return error;
    for (int i = 0; i < count; i++) *out[i] = a && i < a->count ? (unsigned)a->number[i] : otherwise[i];
    return OK;
}

static int number(void *h, const char *call, unsigned *out, unsigned otherwise) { return numbers(h, call, 1, &out, &otherwise); }

static u64 used(const Table *t, const Gpu *g) {
    u64 sum = g->used;
    for (int i = 0; i < t->procs; i++) if (!strcmp(t->proc[i].uuid, g->uuid)) sum += t->proc[i].bytes;
    return sum > g->total - g->reserved ? g->total - g->reserved : sum;
}

int nvmlInitWithFlags(unsigned flags) { Table t; (void)flags; return read_table(&t); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
    case OK: return "Success";
    case NOT_SUPPORTED: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case NO_DRIVER: return "Driver Not Loaded";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Error";
    }
}

static int text(const char *call, char *out, unsigned n) {
    Table t; int error = read_table(&t);
    if (error) return error;
    snprintf(out, n, "580.00");
    for (int i = 0; i < t.texts; i++) if (!strcmp(t.text[i].call, call)) snprintf(out, n, "%s", t.text[i].text);
    return OK;
}

int nvmlSystemGetDriverVersion(char *out, unsigned n) { return text("nvmlSystemGetDriverVersion", out, n); }
int nvmlSystemGetNVMLVersion(char *out, unsigned n) { return text("nvmlSystemGetNVMLVersion", out, n); }

int nvmlSystemGetCudaDriverVersion(int *out) {
    char version[32] = "";
    int error = text("nvmlSystemGetCudaDriverVersion", version, sizeof version);
    *out = strchr(version, '.') ? 13000 : atoi(version);
    return error;
}

static int count(const Table *t, int parent) {
    int n = 0;
    for (int i = 0; i < t->gpus; i++) n += t->gpu[i].parent == parent;
    return n;
}

/* The handle of the index-th row with that parent. */
static int child(const Table *t, int parent, unsigned index, void **handle) {
    for (int i = 0; i < t->gpus; i++) {
        if (t->gpu[i].parent != parent || index--) continue;
        *handle = (void *)(long)(i + 1);
        return t->gpu[i].error;
    }
    return parent < 0 ? BAD_ARG : NOT_FOUND;
}

int nvmlDeviceGetCount_v2(unsigned *n) {
    Table t;
    int error = read_table(&t);
    *n = (unsigned)count(&t, -1);
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    Table t;
    int error = read_table(&t);
    return error ? error : child(&t, -1, index, handle);
}

int nvmlDeviceGetUUID(void *h, char *out, unsigned n) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetUUID", &t, &g, &a);
    if (!error) snprintf(out, n, "%s", g->uuid);
    return error;
}

int nvmlDeviceGetName(void *h, char *out, unsigned n) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetName", &t, &g, &a);
    if (!error) snprintf(out, n, "%s", g->name);
    return error;
}

int nvmlDeviceGetPciInfo_v3(void *h, struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } *p) {
    unsigned *out[] = {&p->domain, &p->bus, &p->device, &p->id, &p->subsystem};
    unsigned otherwise[] = {0, (unsigned)(long)h, 0, 590680286, 415174878};
    int error = numbers(h, "nvmlDeviceGetPciInfo", 5, out, otherwise);
    if (error) return error;
    snprintf(p->legacy, sizeof p->legacy, "%04X:%02X:%02X.0", p->domain & 0xFFFF, p->bus & 0xFF, p->device & 0xFF);
    snprintf(p->bus_id, sizeof p->bus_id, "%08X:%02X:%02X.0", p->domain, p->bus, p->device);
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *h, struct { u64 total, free, used; } *m) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetMemoryInfo", &t, &g, &a);
    if (error) return error;
    m->total = g->total;
    m->used = used(&t, g) + g->reserved;
    m->free = m->total - m->used;
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(void *h, struct { unsigned version; u64 total, reserved, free, used; } *m) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetMemoryInfo_v2", &t, &g, &a);
    if (error) return error;
    m->total = g->total;
    m->reserved = g->reserved;
    m->used = used(&t, g);
    m->free = m->total - m->reserved - m->used;
    return OK;
}

int nvmlDeviceGetBAR1MemoryInfo(void *h, struct { u64 total, free, used; } *m) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetBAR1MemoryInfo", &t, &g, &a);
    if (error) return error;
    if (!a || a->count < 3) return NOT_SUPPORTED;
    m->total = a->number[0];
    m->free = a->number[1];
    m->used = a->number[2];
    return OK;
}

int nvmlDeviceGetUtilizationRates(void *h, struct { unsigned gpu, memory; } *u) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetUtilizationRates", &t, &g, &a);
    if (error) return error;
    if (g->util > 100) return NOT_SUPPORTED;
    u->gpu = u->memory = g->util;
    if (a && a->count == 2) u->memory = (unsigned)a->number[1];
    return OK;
}

/* Percents from the table, all a moment ago; else no sample. */
int nvmlDeviceGetSamples(void *h, int kind, u64 since, int *type, unsigned *n, struct { u64 at; union { unsigned ui; u64 ull; } value; } *out) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetSamples", &t, &g, &a);
    (void)kind;
    if (error) return error;
    if (!a || !a->count) return NOT_FOUND;
    *type = 1;
    for (int i = 0; out && i < a->count && i < (int)*n; i++) { out[i].at = since + 1; out[i].value.ull = a->number[i]; }
    *n = (unsigned)a->count;
    return OK;
}

/* Pairs of pid and percent from the table. */
int nvmlDeviceGetProcessUtilization(void *h, struct { unsigned pid; u64 at; unsigned sm, mem, enc, dec; } *out, unsigned *n, u64 since) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetProcessUtilization", &t, &g, &a);
    unsigned room = *n;
    if (error) return error;
    *n = a ? (unsigned)a->count / 2 : 0;
    if (!*n) return NOT_FOUND;
    if (!out || room < *n) return TOO_SMALL;
    memset(out, 0, *n * sizeof *out);
    for (unsigned i = 0; i < *n; i++) { out[i].pid = (unsigned)a->number[2 * i]; out[i].at = since + 1; out[i].sm = (unsigned)a->number[2 * i + 1]; }
    return OK;
}

int nvmlDeviceGetMigMode(void *h, unsigned *current, unsigned *pending) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetMigMode", &t, &g, &a);
    if (error) return error;
    if (g->mig > 1) return NOT_SUPPORTED;
    *current = *pending = g->mig;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *h, unsigned *out) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetMaxMigDeviceCount", &t, &g, &a);
    if (!error) *out = a && a->count ? (unsigned)a->number[0] : g->mig == 1 ? 7 : 0;
    return error;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *h, unsigned index, void **out) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetMigDeviceHandleByIndex", &t, &g, &a);
    return error ? error : child(&t, (int)(long)h - 1, index, out);
}

int nvmlDeviceIsMigDeviceHandle(void *h, unsigned *out) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceIsMigDeviceHandle", &t, &g, &a);
    if (!error) *out = g->parent >= 0;
    return error;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n,
        struct { unsigned pid; u64 bytes; unsigned gpu_instance, compute_instance; } *out) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetComputeRunningProcesses", &t, &g, &a);
    unsigned room = *n;
    if (error) return error;
    *n = 0;
    for (int i = 0; i < t.procs; i++) {
        if (strcmp(t.proc[i].uuid, g->uuid) || !t.proc[i].listed) continue;
        if (out && *n < room) {
            out[*n].pid = t.proc[i].listed;
            out[*n].bytes = t.proc[i].told;
            out[*n].gpu_instance = out[*n].compute_instance = 0xFFFFFFFF;
        }
        ++*n;
    }
    return *n > room ? TOO_SMALL : OK;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *h, unsigned *n, void *out) {
    Table t; Gpu *g; Answer *a; int error = find(h, "nvmlDeviceGetGraphicsRunningProcesses", &t, &g, &a);
    (void)out;
    *n = 0;
    return error;
}

int nvmlDeviceGetCudaComputeCapability(void *h, unsigned *major, unsigned *minor) {
    unsigned *out[] = {major, minor}, otherwise[] = {9, 0};
    return numbers(h, "nvmlDeviceGetCudaComputeCapability", 2, out, otherwise);
}

int nvmlDeviceGetEccMode(void *h, unsigned *current, unsigned *pending) {
    unsigned *out[] = {current, pending}, otherwise[] = {1, 1};
    return numbers(h, "nvmlDeviceGetEccMode", 2, out, otherwise);
}

int nvmlDeviceGetMinorNumber(void *h, unsigned *out) { return number(h, "nvmlDeviceGetMinorNumber", out, (unsigned)(long)h - 1); }
int nvmlDeviceGetArchitecture(void *h, unsigned *out) { return number(h, "nvmlDeviceGetArchitecture", out, 9); }
int nvmlDeviceGetComputeMode(void *h, unsigned *out) { return number(h, "nvmlDeviceGetComputeMode", out, 0); }
int nvmlDeviceGetPersistenceMode(void *h, unsigned *out) { return number(h, "nvmlDeviceGetPersistenceMode", out, 1); }
int nvmlDeviceGetPowerUsage(void *h, unsigned *out) { return number(h, "nvmlDeviceGetPowerUsage", out, 100000); }
int nvmlDeviceGetTemperature(void *h, int sensor, unsigned *out) { (void)sensor; return number(h, "nvmlDeviceGetTemperature", out, 40); }

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
