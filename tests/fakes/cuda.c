/* A fake libcuda.so.1 with the calls of modelium/selftest/cuda_probe.py.
 *
 * FAKE_CUDA_TABLE names a file with a line per GPU, in the order in which CUDA counts by default:
 *   <uuid> <PCI bus id> <bytes> <name>
 * CUDA_DEVICE_ORDER and CUDA_VISIBLE_DEVICES (UUIDs or numbers) work as in the real driver. Memory
 * that is allocated becomes a process of the fake NVML (FAKE_NVML_TABLE), which lists it under
 * FAKE_CUDA_LISTED_PID if that is set; each context takes FAKE_CUDA_CONTEXT bytes.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { char uuid[64], bus[32], name[96]; unsigned long long bytes; } Gpu;
static Gpu gpus[16];
static int count, current;

static int by_bus(const void *a, const void *b) {
    return strcmp(((const Gpu *)a)->bus, ((const Gpu *)b)->bus);
}

static void select_visible(const char *visible) {
    Gpu kept[16]; int n = 0; char text[1024];
    snprintf(text, sizeof text, "%s", visible);
    for (char *word = strtok(text, ","); word; word = strtok(NULL, ",")) {
        int found = -1;
        for (int i = 0; i < count; i++) if (!strcmp(gpus[i].uuid, word)) found = i;
        if (found < 0 && strncmp(word, "GPU-", 4) && atoi(word) < count) found = atoi(word);
        if (found < 0) break;  /* CUDA ignores what follows an unknown name */
        kept[n++] = gpus[found];
    }
    memcpy(gpus, kept, sizeof kept);
    count = n;
}

/* As the real driver does, which cannot start where that is refused. */
static int name_thread(void) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/comm", (int)gettid());
    FILE *file = fopen(path, "w");
    if (!file) return 0;
    fclose(file);
    return 1;
}

int cuInit(unsigned flags) {
    if (!name_thread()) return 304;
    FILE *file = fopen(getenv("FAKE_CUDA_TABLE") ? getenv("FAKE_CUDA_TABLE") : "", "r");
    if (!file || flags) return 100;
    while (count < 16 && fscanf(file, "%63s %31s %llu %95[^\n]", gpus[count].uuid, gpus[count].bus,
                                &gpus[count].bytes, gpus[count].name) == 4) count++;
    fclose(file);
    const char *order = getenv("CUDA_DEVICE_ORDER"), *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (order && !strcmp(order, "PCI_BUS_ID")) qsort(gpus, count, sizeof *gpus, by_bus);
    if (visible) select_visible(visible);
    return count ? 0 : 100;
}

int cuGetErrorString(int code, const char **text) {
    *text = code == 100 ? "no CUDA-capable device is detected" : code == 2 ? "out of memory" : code == 304 ? "OS call failed or operation not supported on this OS" : "unknown error";
    return 0;
}

int cuDeviceGetCount(int *found) { *found = count; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return index < count ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int d) { snprintf(name, length, "%s", gpus[d].name); return 0; }
int cuDeviceGetPCIBusId(char *bus, int length, int d) { snprintf(bus, length, "%s", gpus[d].bus); return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int d) { *bytes = gpus[d].bytes; return 0; }

int cuDeviceGetUuid(unsigned char *raw, int d) {
    const char *at = gpus[d].uuid + 4;
    for (int i = 0; i < 16; i++) {
        if (*at == '-') at++;
        unsigned byte;
        sscanf(at, "%2x", &byte);
        raw[i] = byte;
        at += 2;
    }
    return 0;
}

int cuCtxCreate_v2(void **context, unsigned flags, int device) {
    *context = gpus + device;
    current = device;
    return flags ? 1 : 0;
}

int cuMemAlloc_v2(unsigned long long *pointer, size_t bytes) {
    if (bytes > gpus[current].bytes) return 2;
    const char *listed = getenv("FAKE_CUDA_LISTED_PID"), *context = getenv("FAKE_CUDA_CONTEXT");
    unsigned long long held = bytes + (context ? atoll(context) : 0);
    FILE *file = fopen(getenv("FAKE_NVML_TABLE"), "a");
    if (!file) return 1;
    fprintf(file, "proc\t%s\t%d\t%llu\t%d\t%llu\n", gpus[current].uuid, getpid(), held,
            listed ? atoi(listed) : getpid(), held);
    fclose(file);
    *pointer = 1;
    return 0;
}
