/* The floor of any Python event loop: a plain epoll loop that drives an asyncio.Protocol.
 *
 * One recv, one call into Python and one send per message; no handles, no contexts, no flow
 * control, no tasks. What a real loop spends beyond this is its own work. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE (256 * 1024)
#define MAX_EVENTS 256

typedef struct {
    PyObject_HEAD
    int fd;
    int epoll;
    PyObject *protocol;
    PyObject *data_received; /* bound method, looked up once */
    char *pending;           /* bytes that the socket did not take yet */
    size_t pending_size;
} Transport;

static void transport_dealloc(Transport *self) {
    if (self->fd >= 0)
        close(self->fd);
    free(self->pending);
    Py_XDECREF(self->data_received);
    Py_XDECREF(self->protocol);
    PyObject_Free(self);
}

static int watch(Transport *self, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = self};
    if (epoll_ctl(self->epoll, EPOLL_CTL_MOD, self->fd, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return -1;
    }
    return 0;
}

/* Sends what the socket takes and returns how much, or -1 with an exception set. */
static Py_ssize_t send_some(Transport *self, const char *bytes, size_t size) {
    ssize_t sent;
    do {
        sent = send(self->fd, bytes, size, MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return sent;
    if (errno == EAGAIN || errno == EPIPE || errno == ECONNRESET)
        return 0; /* a broken connection ends at its next recv */
    PyErr_SetFromErrno(PyExc_OSError);
    return -1;
}

static PyObject *transport_write(PyObject *object, PyObject *data) {
    Transport *self = (Transport *)object;
    Py_buffer view;
    if (PyObject_GetBuffer(data, &view, PyBUF_SIMPLE) < 0)
        return NULL;
    size_t size = (size_t)view.len;
    Py_ssize_t sent = self->pending_size ? 0 : send_some(self, view.buf, size);
    if (sent >= 0 && (size_t)sent < size) {
        size_t rest = size - (size_t)sent;
        char *pending = realloc(self->pending, self->pending_size + rest);
        if (pending == NULL) {
            PyErr_NoMemory();
            sent = -1;
        } else {
            memcpy(pending + self->pending_size, (char *)view.buf + sent, rest);
            self->pending = pending;
            self->pending_size += rest;
            if (watch(self, EPOLLIN | EPOLLOUT) < 0)
                sent = -1;
        }
    }
    PyBuffer_Release(&view);
    if (sent < 0)
        return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef transport_methods[] = {
    {"write", transport_write, METH_O, "Send bytes; keep what the socket does not take."},
    {NULL, NULL, 0, NULL},
};

static PyTypeObject TransportType = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "floor.Transport",
    .tp_basicsize = sizeof(Transport),
    .tp_dealloc = (destructor)transport_dealloc,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_methods = transport_methods,
};

static int flush(Transport *self) {
    Py_ssize_t sent = send_some(self, self->pending, self->pending_size);
    if (sent < 0)
        return -1;
    self->pending_size -= (size_t)sent;
    memmove(self->pending, self->pending + sent, self->pending_size);
    return self->pending_size ? 0 : watch(self, EPOLLIN);
}

/* Returns 1 while the connection is open, 0 when it has ended, -1 with an exception set. */
static int receive(Transport *self, char *buffer) {
    ssize_t count = recv(self->fd, buffer, READ_SIZE, 0);
    if (count < 0)
        return errno == EAGAIN || errno == EINTR;
    if (count == 0)
        return 0;
    PyObject *data = PyBytes_FromStringAndSize(buffer, count);
    if (data == NULL)
        return -1;
    PyObject *result = PyObject_CallOneArg(self->data_received, data);
    Py_DECREF(data);
    Py_XDECREF(result);
    return result == NULL ? -1 : 1;
}

static int accept_one(int epoll, int listener, PyObject *protocol_factory) {
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return 0;
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    Transport *self = PyObject_New(Transport, &TransportType);
    if (self == NULL) {
        close(fd);
        return -1;
    }
    self->fd = fd;
    self->epoll = epoll;
    self->pending = NULL;
    self->pending_size = 0;
    self->data_received = NULL;
    self->protocol = PyObject_CallNoArgs(protocol_factory);
    PyObject *made = NULL;
    if (self->protocol != NULL)
        self->data_received = PyObject_GetAttrString(self->protocol, "data_received");
    if (self->data_received != NULL)
        made = PyObject_CallMethod(self->protocol, "connection_made", "O", self);
    if (made == NULL) {
        Py_DECREF(self);
        return -1;
    }
    Py_DECREF(made);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = self};
    if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_DECREF(self);
        return -1;
    }
    return 0; /* the epoll set holds the reference */
}

static int end(Transport *self) {
    /* The protocol mostly holds the transport, so that dropping the reference closes nothing. */
    close(self->fd);
    self->fd = -1;
    PyObject *lost = PyObject_CallMethod(self->protocol, "connection_lost", "O", Py_None);
    Py_XDECREF(lost);
    Py_CLEAR(self->data_received);
    Py_CLEAR(self->protocol);
    Py_DECREF(self);
    return lost == NULL ? -1 : 0;
}

static int handle(struct epoll_event *event, int epoll, int listener, PyObject *protocol_factory,
                  char *buffer) {
    Transport *self = event->data.ptr;
    if (self == NULL)
        return accept_one(epoll, listener, protocol_factory);
    if ((event->events & EPOLLOUT) && self->pending_size && flush(self) < 0)
        return -1;
    if (event->events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        int open = receive(self, buffer);
        if (open <= 0)
            return open < 0 ? -1 : end(self);
    }
    return 0;
}

static PyObject *serve(PyObject *module, PyObject *args) {
    int listener;
    PyObject *protocol_factory;
    if (!PyArg_ParseTuple(args, "iO:serve", &listener, &protocol_factory))
        return NULL;
    char *buffer = malloc(READ_SIZE);
    if (buffer == NULL)
        return PyErr_NoMemory();
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[MAX_EVENTS];
    events[0] = (struct epoll_event){.events = EPOLLIN, .data.ptr = NULL};
    if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &events[0]) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        goto done;
    }
    for (;;) {
        int count;
        Py_BEGIN_ALLOW_THREADS
        count = epoll_wait(epoll, events, MAX_EVENTS, -1);
        Py_END_ALLOW_THREADS
        if (count < 0 && errno != EINTR) {
            PyErr_SetFromErrno(PyExc_OSError);
            goto done;
        }
        if (count < 0 && PyErr_CheckSignals() < 0)
            goto done;
        for (int index = 0; index < count; index++) {
            if (handle(&events[index], epoll, listener, protocol_factory, buffer) < 0)
                goto done;
        }
    }
done:
    if (epoll >= 0)
        close(epoll);
    free(buffer);
    return NULL;
}

static PyMethodDef module_methods[] = {
    {"serve", serve, METH_VARARGS,
     "serve(listener_fd, protocol_factory)\n--\n\nServe connections until an exception."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "floor",
    .m_doc = "The floor of any Python event loop.",
    .m_size = -1,
    .m_methods = module_methods,
};

PyMODINIT_FUNC PyInit_floor(void) {
    if (PyType_Ready(&TransportType) < 0)
        return NULL;
    return PyModule_Create(&module_definition);
}
