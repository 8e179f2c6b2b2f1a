/* An extension over the library in device.c, which is done with a measurement in a thread of its own: Sensor.read() waits. */

#include <hybridloop_await.h>

#include "device.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

typedef struct {
    PyObject_HEAD
    struct device *device;
} Sensor;

/* Of the coroutine and of the device's thread: whoever is last frees it, for the coroutine may be cancelled first. */
struct measurement {
    atomic_int owners, is_done;
    double value;
    hla_waker *waker;
};

static void release(struct measurement *m)
{
    if (atomic_fetch_sub(&m->owners, 1) == 1) {
        free(m);
    }
}

/* In the device's thread, which has no interpreter. */
static void done(void *arg, double value)
{
    struct measurement *m = (struct measurement *)arg;
    m->value = value;
    atomic_store(&m->is_done, 1);
    hla_wake(m->waker);
    release(m);
}

struct reading {
    Sensor *sensor;
    struct measurement *measurement;
};

static int init(void *state, PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *kwnames)
{
    (void)args;
    if (n != 0 || kwnames != NULL) {
        PyErr_SetString(PyExc_TypeError, "read() takes no arguments");
        return -1;
    }
    ((struct reading *)state)->sensor = (Sensor *)Py_NewRef(self);
    return 0;
}

static int traverse(void *state, visitproc visit, void *arg)
{
    Py_VISIT((PyObject *)((struct reading *)state)->sensor);
    return 0;
}

static void drop(void *state)
{
    struct reading *r = (struct reading *)state;
    if (r->measurement != NULL) {
        release(r->measurement);
    }
    Py_XDECREF((PyObject *)r->sensor);
}

/* Begins a measurement: 0, or -1 with an exception. */
static int begin(struct reading *r, hla_frame *f)
{
    struct measurement *m = (struct measurement *)calloc(1, sizeof(*m));
    if (m == NULL || (m->waker = hla_waker_new(f)) == NULL) {
        free(m);
        PyErr_NoMemory();
        return -1;
    }
    atomic_init(&m->owners, 2);
    if (device_measure(r->sensor->device, done, m) < 0) {
        hla_waker_drop(m->waker);
        free(m);
        PyErr_NoMemory();
        return -1;
    }
    r->measurement = m;
    return 0;
}

/* async def read(self) */
static int read_step(hla_frame *f)
{
    struct reading *r = (struct reading *)f->state;
    HLA_BEGIN(f);
    if (begin(r, f) < 0) {
        HLA_RAISE(f);
    }
    while (!atomic_load(&r->measurement->is_done)) {
        HLA_WAIT(f);
    }
    if (isnan(r->measurement->value)) {
        PyErr_SetString(PyExc_OSError, "the sensor was closed");
        HLA_RAISE(f);
    }
    HLA_RETURN(f, PyFloat_FromDouble(r->measurement->value));
    HLA_END(f);
}

static PyObject *new_sensor(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    unsigned milliseconds;
    Sensor *self;
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    if (kwargs != NULL && PyDict_Size(kwargs) > 0) {
        PyErr_SetString(PyExc_TypeError, "Sensor() takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "I", &milliseconds) || (self = (Sensor *)alloc(type, 0)) == NULL) {
        return NULL;
    }
    if ((self->device = device_open(milliseconds)) == NULL) {
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    return (PyObject *)self;
}

static void dealloc(PyObject *self)
{
    Sensor *sensor = (Sensor *)self;
    PyTypeObject *type = Py_TYPE(self);
    freefunc release_memory = (freefunc)PyType_GetSlot(type, Py_tp_free);
    if (sensor->device != NULL) {
        /* Its thread needs no interpreter, so others may go on meanwhile. */
        Py_BEGIN_ALLOW_THREADS
        device_close(sensor->device);
        Py_END_ALLOW_THREADS
    }
    release_memory(self);
    Py_DECREF(type);
}

static const hla_spec READ = {
    sizeof(hla_spec), NULL, read_step, sizeof(struct reading), traverse, drop, 0, 0,
};
static const hla_function ASYNC_METHODS[] = {
    {"read", &READ, "read($self, /)\n--\n\nMeasure the temperature.", init},
    {NULL, NULL, NULL, NULL},
};
static PyType_Slot SENSOR_SLOTS[] = {
    {Py_tp_new, (void *)new_sensor},
    {Py_tp_dealloc, (void *)dealloc},
    {0, NULL},
};
static PyType_Spec SENSOR = {"sensor.Sensor", sizeof(Sensor), 0, Py_TPFLAGS_DEFAULT, SENSOR_SLOTS};

static int exec(PyObject *module)
{
    int status = -1;
    PyObject *type;
    if (hla_import() < 0 || (type = PyType_FromSpec(&SENSOR)) == NULL) {
        return -1;
    }
    if (hla_add_methods((PyTypeObject *)type, ASYNC_METHODS) == 0) {
        status = PyModule_AddObjectRef(module, "Sensor", type);
    }
    Py_DECREF(type);
    return status;
}

static PyModuleDef_Slot SLOTS[] = {{Py_mod_exec, (void *)exec}, {0, NULL}};
static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "sensor", NULL, 0, NULL, SLOTS, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit_sensor(void)
{
    return PyModuleDef_Init(&MODULE);
}
