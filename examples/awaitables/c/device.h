/* A library that knows nothing of Python: a device that measures in a thread of its own. */
#ifndef DEVICE_H
#define DEVICE_H

struct device;

/* Called once for each measurement, in the device's thread. */
typedef void (*device_done)(void *arg, double value);

/* A device that takes that long for a measurement; NULL if there is no memory or no thread. */
struct device *device_open(unsigned milliseconds);
/* Begins a measurement; -1 if there is no memory. They are done one after the other. */
int device_measure(struct device *device, device_done done, void *arg);
/* Waits for the measurement that runs; the others are done at once, with the value NaN. */
void device_close(struct device *device);

#endif
