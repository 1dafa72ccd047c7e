/* An NVIDIA management library without NVIDIA: test_nvml.py compiles it as libnvidia-ml.so.1.
 * It answers from the environment: FAKE_NVML_INIT, the code of nvmlInit; FAKE_NVML_GPUS, how many; FAKE_NVML_LOST, the index
 * of one that has fallen off the bus; FAKE_NVML_SHY, set where utilisation and temperature are not supported. */
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } utilization;
static int devices[16];

static int setting(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}
static int is_lost(const int *device) { return device - devices == setting("FAKE_NVML_LOST", -1); }

int nvmlInitWithFlags(unsigned flags) { (void)flags; return setting("FAKE_NVML_INIT", SUCCESS); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == GPU_IS_LOST ? "GPU is lost" : "some error"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { strncpy(text, "580.95.05", size); return SUCCESS; }
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
  return getenv("FAKE_NVML_SHY") ? NOT_SUPPORTED : SUCCESS;
}
int nvmlDeviceGetTemperature(int *device, int sensor, unsigned *celsius) {
  (void)device; (void)sensor; *celsius = 41;
  return getenv("FAKE_NVML_SHY") ? NOT_SUPPORTED : SUCCESS;
}
