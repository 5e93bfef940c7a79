/* Python as C sees it. Nothing of it is linked: it tells where the functions of its stable interface are. */
#ifndef EBPF_PYTHON_H
#define EBPF_PYTHON_H

#include "rt.h"

#include <sys/types.h>

typedef struct object object;

/* What is used of Python; python.py fills it in, in this order. */
struct rt_python {
    object *(*bytes_new)(const char *from, ssize_t size);
    char *(*bytes_at)(object *);
    int (*bytes_look)(object *, char **at, ssize_t *size);
    object *(*from_unsigned)(unsigned long long);
    object *(*from_signed)(long long);
    unsigned long long (*as_unsigned)(object *);
    long long (*as_signed)(object *);
    object *(*error)(void);
    void (*forget_error)(void);
    void (*hold)(object *);
    void (*release)(object *);
    object *(*capsule_new)(void *, const char *, void (*end)(object *));
    void *(*capsule_pointer)(object *, const char *);
    object *(*function_new)(void *method, object *self, object *module);
    object *(*function_self)(object *);
    void (*error_take)(object **kind, object **value, object **trace);
    void (*error_put)(object *kind, object *value, object *trace);
    int (*gil_take)(void);
    void (*gil_give)(int);
    object *none, *not_implemented;
};
extern struct rt_python rt_py;

static inline object *given(object *what)
{
    rt_py.hold(what);
    return what;
}

#endif
