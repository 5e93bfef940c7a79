/* What ends the structs of Arrow's C data interface. Readers call it from any thread, and while an exception of Python's is on its
 * way: ctypes cannot stand for that. Each struct holds a reference to the Python object that its memory belongs to. */
#include "maps.h"
#include "python.h"

#include <stdlib.h>

struct schema {
    const char *format, *name, *metadata;
    s64 flags, n_children;
    struct schema **children;
    struct schema *dictionary;
    void (*release)(struct schema *);
    object *held;
};

struct array {
    s64 length, null_count, offset, n_buffers, n_children;
    const void **buffers;
    struct array **children;
    struct array *dictionary;
    void (*release)(struct array *);
    object *held;
};

struct stream {
    void *get_schema, *get_next, *get_last_error;
    void (*release)(struct stream *);
    object *held;
};
static const char STREAM[] = "arrow_array_stream";

static void drop(object *held)
{
    object *kind, *value, *trace;
    int gil = rt_py.gil_take();
    rt_py.error_take(&kind, &value, &trace);
    rt_py.release(held);
    rt_py.error_put(kind, value, trace);
    rt_py.gil_give(gil);
}

/* A child that a reader moved away is that reader's. */
RT_API void rt_release_schema(struct schema *schema)
{
    for (s64 i = 0; i < schema->n_children; i++)
        if (schema->children[i]->release)
            schema->children[i]->release(schema->children[i]);
    schema->release = NULL;
    drop(schema->held);
}

RT_API void rt_release_array(struct array *array)
{
    for (s64 i = 0; i < array->n_children; i++)
        if (array->children[i]->release)
            array->children[i]->release(array->children[i]);
    array->release = NULL;
    drop(array->held);
}

RT_API void rt_release_stream(struct stream *stream)
{
    stream->release = NULL;
    drop(stream->held);
}

/* The capsule goes, and with it the stream, unless a reader took it out. */
static void end_stream(object *capsule)
{
    struct stream *stream = rt_py.capsule_pointer(capsule, STREAM);
    if (stream->release)
        stream->release(stream);
    free(stream);
}

/* A capsule with a copy of `from`; None if there is no memory. */
RT_API object *rt_stream_capsule(const struct stream *from)
{
    struct stream *stream = malloc(sizeof *stream);
    if (!stream)
        return given(rt_py.none);
    *stream = *from;
    return rt_py.capsule_new(stream, STREAM, end_stream);
}

/* The `size` bytes at `offset` of each of `count` rows of `stride` bytes, end to end. */
RT_API void rt_column(u8 *to, const u8 *from, u64 offset, u64 stride, u32 size, u64 count)
{
    for (u64 i = 0; i < count; i++)
        copy_few(to + i * size, from + i * stride + offset, size);
}
