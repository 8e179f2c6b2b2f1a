/* The layout of hybridloop_await.h, which only grows at its ends. */

#include <hybridloop_await.h>

#define AT(type, field, offset)                                                       \
    _Static_assert(offsetof(type, field) == (offset), #type "." #field " has moved")

AT(hla_table, size, 0);
AT(hla_table, abi, 4);
AT(hla_table, version, 8);
AT(hla_table, new_, 16);
AT(hla_table, add_await, 24);
AT(hla_table, add_defer, 32);
AT(hla_table, add_with, 40);
AT(hla_table, add_for, 48);
AT(hla_table, set_result, 56);
AT(hla_table, clear, 64);
AT(hla_table, save, 72);
AT(hla_table, values, 80);
AT(hla_table, set_value, 88);
AT(hla_table, save_pointers, 96);
AT(hla_table, pointers, 104);
AT(hla_table, set_state, 112);
AT(hla_table, state, 120);
AT(hla_table, callback_type, 128);
AT(hla_table, new_step, 136);
AT(hla_table, waker_new, 144);
AT(hla_table, add_functions, 152);
AT(hla_table, add_methods, 160);

AT(hla_spec, size, 0);
AT(hla_spec, qualname, 8);
AT(hla_spec, step, 16);
AT(hla_spec, state_size, 24);
AT(hla_spec, traverse, 32);
AT(hla_spec, drop, 40);
AT(hla_spec, flags, 48);

AT(hla_frame, self, 0);
AT(hla_frame, state, 8);
AT(hla_frame, value, 16);
AT(hla_frame, error, 24);
AT(hla_frame, out_, 32);
AT(hla_frame, line_, 40);
_Static_assert(sizeof(hla_frame) == 48, "hla_frame has grown");

AT(hla_function, name, 0);
AT(hla_function, spec, 8);
AT(hla_function, doc, 16);
AT(hla_function, init, 24);
_Static_assert(sizeof(hla_function) == 32, "hla_function has grown");

AT(hla_waker, functions, 0);
AT(struct hla_waker_functions, clone, 0);
AT(struct hla_waker_functions, wake, 8);
AT(struct hla_waker_functions, drop, 16);

/* The sizes of the table, of hybridloop and of the header. */
static PyObject *sizes(PyObject *self, PyObject *unused)
{
    const hla_table *table = hla_table_();
    (void)self, (void)unused;
    return table == NULL ? NULL : Py_BuildValue("II", table->size, (unsigned)sizeof(hla_table));
}

static PyObject *new(PyObject *self, PyObject *unused)
{
    (void)self, (void)unused;
    return hla_new(NULL);
}

static PyMethodDef methods[] = {
    {"sizes", sizes, METH_NOARGS, NULL},
    {"new", new, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int exec_module(PyObject *module)
{
    (void)module;
#ifdef WITHOUT_IMPORT
    return 0;
#else
    return hla_import();
#endif
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)exec_module},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "layout", NULL, 0, methods, slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_layout(void)
{
    return PyModuleDef_Init(&definition);
}
