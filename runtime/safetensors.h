/* safetensors.h - tensors of a Hugging Face checkpoint: one file, or shards with an index.
 *
 * A file is: u64 length of the header, little endian; the header, JSON; raw data.
 * Only headers are read when a checkpoint is opened; tensor bytes are read by
 * safetensors_read and safetensors_read_past, just the ones asked for and what
 * shares a page with them, so that a rank leaves the others' parts alone.
 * Source: github.com/huggingface/safetensors, README ("Format").
 */
#ifndef RUNTIME_SAFETENSORS_H
#define RUNTIME_SAFETENSORS_H

#include "kernels/core/dtype.h"
#include "kernels/core/status.h"
#include "runtime/page_cache.h"

enum { SAFETENSORS_MAX_DIMS = 4 };

struct safetensors_entry {
    const char *name; /* owned by the checkpoint */
    enum dtype dtype;
    int ndim;
    int64_t dim[SAFETENSORS_MAX_DIMS];
    int64_t offset, bytes; /* in its file */
    int file;              /* index of its file */
};

struct safetensors;

/* Opens `directory`/model.safetensors, or the shards that `directory`/model.safetensors.index.json
 * names.  Everything a header says is checked: lengths, offsets (inside the file, no overlap, no
 * holes, aligned to the element), shapes whose bytes match, known dtypes, names given once, the
 * index and the shards agreeing.
 * Owner: caller; end with safetensors_close.
 * Errors: STATUS_IO, STATUS_INVALID; the text names file and tensor. */
enum status safetensors_open(struct safetensors **checkpoint, const char *directory);

/* As above for one file of any name. */
enum status safetensors_open_file(struct safetensors **checkpoint, const char *path);

void safetensors_close(struct safetensors *checkpoint);

/* Number of tensors; entry `index` in order of name. */
int safetensors_count(const struct safetensors *checkpoint);
const struct safetensors_entry *safetensors_at(const struct safetensors *checkpoint, int index);

/* NULL when there is none of that name. */
const struct safetensors_entry *safetensors_find(const struct safetensors *checkpoint,
                                                 const char *name);

/* Path of the file of an entry, for messages. */
const char *safetensors_path(const struct safetensors *checkpoint,
                             const struct safetensors_entry *entry);

/* Reads `bytes` bytes from `offset` within the tensor.  Errors: STATUS_IO (short file, text: path). */
enum status safetensors_read(const struct safetensors *checkpoint,
                             const struct safetensors_entry *entry, int64_t offset, int64_t bytes,
                             void *data);

/* A thread's way past the page cache, to the file it read last; where it looked last. */
struct safetensors_past {
    int is_open; /* `fd` and `file` mean something; fd -1: this file has no such way */
    int fd, file;
    int looked_file;
    int64_t looked_begin, looked_end; /* in that file */
    enum page_cache_state looked;
};

/* Are these bytes of the tensor in the page cache?  Looks at them and some behind, which answer for
 * the next ones asked about. */
enum page_cache_state safetensors_look(struct safetensors_past *past,
                                       const struct safetensors *checkpoint,
                                       const struct safetensors_entry *entry, int64_t offset,
                                       int64_t bytes);

/* Reads like safetensors_read, past the page cache where the file system can.  `buffer` is aligned to
 * PAGE_CACHE_ALIGNMENT and has room for as many bytes more on both sides; *data: where the bytes
 * begin in it.  End with safetensors_past_close. */
enum status safetensors_read_past(struct safetensors_past *past, char **data, char *buffer,
                                  const struct safetensors *checkpoint,
                                  const struct safetensors_entry *entry, int64_t offset,
                                  int64_t bytes);
void safetensors_past_close(struct safetensors_past *past);

/* Hash of all headers and file sizes, to compare between ranks. */
uint64_t safetensors_hash(const struct safetensors *checkpoint);

/* Writing: entries are added with their shapes, then the data is written in the same order. */
struct safetensors_writer;

/* Owner: caller; end with safetensors_writer_close.  The file appears under its name only when it is
 * whole (written beside it, then renamed). */
enum status safetensors_writer_open(struct safetensors_writer **writer, const char *path);
enum status safetensors_writer_add(struct safetensors_writer *writer, const char *name,
                                   enum dtype dtype, int ndim, const int64_t *dim);
/* Appends bytes of the tensors in order; the first call writes the header. */
enum status safetensors_writer_write(struct safetensors_writer *writer, const void *data,
                                     int64_t bytes);
/* Fails with STATUS_INVALID unless every byte was written; renames. */
enum status safetensors_writer_finish(struct safetensors_writer *writer);
/* Frees; removes an unfinished file. */
void safetensors_writer_close(struct safetensors_writer *writer);

#endif
