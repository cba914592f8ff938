// The module kdfast._C. It is empty: importing it loads the library, and loading it runs the registrations of
// the ops. Only the limited API of CPython 3.10 is used, so one file serves every later CPython.
#include <Python.h>

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "_C", .m_size = 0};

PyMODINIT_FUNC PyInit__C(void) { return PyModuleDef_Init(&definition); }
