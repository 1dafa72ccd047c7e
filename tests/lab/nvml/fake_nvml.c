/* An NVIDIA management library without NVIDIA, as libnvidia-ml.so.1: fake_nvml.py compiles it for tests, ../fakerepo for the
 * lab's hosts. It answers from the environment, or else from lines NAME=value of /etc/fake-nvml.conf:
 * FAKE_NVML_INIT, the code of nvmlInit; FAKE_NVML_GPUS, how many; FAKE_NVML_LOST, the index of one that has fallen off the bus;
 * FAKE_NVML_SHY, set where utilisation and temperature are not supported.
 * Its version is compiled in, as it is in NVIDIA's. With LOADED_VERSION, a file that holds the version of the kernel module
 * that is loaded, nvmlInit says 9 where none is and 18 where it is another than the library's. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef LIBRARY_VERSION
#define LIBRARY_VERSION "580.95.05"
#endif

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15, VERSION_MISMATCH = 18 };
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } utilization;
static int devices[16];

static int from_file(const char *name, int otherwise) {
  char line[128];
  FILE *file = fopen("/etc/fake-nvml.conf", "r");
  while (file && fgets(line, sizeof line, file))
    if (!strncmp(line, name, strlen(name)) && line[strlen(name)] == '=') otherwise = atoi(line + strlen(name) + 1);
  if (file) fclose(file);
  return otherwise;
}
static int setting(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : from_file(name, otherwise);
}
static int is_lost(const int *device) { return device - devices == setting("FAKE_NVML_LOST", -1); }

static int kernel_module(void) {
#ifdef LOADED_VERSION
  char loaded[32] = "";
  FILE *file = fopen(LOADED_VERSION, "r");
  if (!file) return DRIVER_NOT_LOADED;
  if (!fgets(loaded, sizeof loaded, file)) loaded[0] = 0;
  fclose(file);
  loaded[strcspn(loaded, "\n")] = 0;
  return strcmp(loaded, LIBRARY_VERSION) ? VERSION_MISMATCH : SUCCESS;
#else
  return SUCCESS;
#endif
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; return setting("FAKE_NVML_INIT", kernel_module()); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) {
  switch (code) {
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case VERSION_MISMATCH: return "Driver/library version mismatch";
    default: return "some error";
  }
}
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, LIBRARY_VERSION, size); return SUCCESS; }
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 13010; return SUCCESS; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = setting("FAKE_NVML_GPUS", 0); return SUCCESS; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, int **device) { *device = &devices[index]; return SUCCESS; }
int nvmlDeviceGetName(int *device, char *text, unsigned size) {
  if (is_lost(device)) return GPU_IS_LOST;
  strncpy(text, "NVIDIA GeForce RTX 3060", size);
  return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(int *device, int *major, int *minor) { (void)device; *major = 8; *minor = 6; return SUCCESS; }
int nvmlDeviceGetMemoryInfo(int *device, memory *info) {
  if (is_lost(device)) return GPU_IS_LOST;
  info->total = 12288ull << 20; info->used = (unsigned long long)(device - devices + 1) << 30; info->free = info->total - info->used;
  return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(int *device, utilization *rates) {
  (void)device; rates->gpu = 37; rates->memory = 5;
  return setting("FAKE_NVML_SHY", 0) ? NOT_SUPPORTED : SUCCESS;
}
int nvmlDeviceGetTemperature(int *device, int sensor, unsigned *celsius) {
  (void)device; (void)sensor; *celsius = 41;
  return setting("FAKE_NVML_SHY", 0) ? NOT_SUPPORTED : SUCCESS;
}
