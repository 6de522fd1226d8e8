/* page_cache.h - what of a file lies in memory already, and reading past that cache.
 *
 * A model that is read once need not drive everything else out of memory: what
 * is in the page cache is copied from there, the rest comes from the disk
 * straight into our buffers (O_DIRECT) and leaves the cache as it is. */
#ifndef RUNTIME_PAGE_CACHE_H
#define RUNTIME_PAGE_CACHE_H

#include <stdint.h>

enum { PAGE_CACHE_ALIGNMENT = 4096 }; /* of buffers and places of reads past the cache */

enum page_cache_state {
    PAGES_CACHED,
    PAGES_ABSENT,
    PAGES_UNKNOWN /* the system tells only who owns a file or may write it */
};

/* Looks at a few pages of [offset, offset + bytes).  Cheap: some microseconds, nothing is read. */
enum page_cache_state page_cache_look(int fd, int64_t offset, int64_t bytes);

/* Bytes of the file in memory; -1: unknown. */
int64_t page_cache_bytes(int fd);

/* Asks the system to forget the file's clean pages. */
void page_cache_drop(int fd);

/* Tells the system that reads jump, so that it reads what is asked for and nothing ahead. */
void page_cache_expect_jumps(int fd);

/* The same file once more for page_cache_read_past; -1 where the file system has no such reads.
 * Owner: caller; close(). */
int page_cache_open_past(int fd);

/* Reads at least the `bytes` at `offset` into `buffer`, which is aligned and has room for
 * PAGE_CACHE_ALIGNMENT more bytes on both sides: the first stands at buffer + offset %
 * PAGE_CACHE_ALIGNMENT.  Returns how many of them came, from the front: fewer at the end of the file
 * or after an error, which a common read of the rest will name. */
int64_t page_cache_read_past(int fd, void *buffer, int64_t offset, int64_t bytes);

#endif
