/* cache_placement.h - which member of a cache group holds a page of a sequence.  Arithmetic only.
 *
 * Page p of a sequence lives on member (p + offset) mod size.  Each sequence has
 * its own offset, so that short ones do not fill one member: the member that
 * holds the fewest pages gets the first one.
 *
 * Class c of a sequence are its pages p with p mod size = c: all on one member,
 * whatever the offset.  Partial softmaxes are merged along one tree over
 * classes, not over members, so the offset says where rows lie and changes no bit
 * of what is computed from them.  The tree pairs classes that differ in their
 * highest bit first: c with c + s, the lower one first, for s from cache_placement_stride
 * on and then halved, while c + s is below size.  For 8 classes this is the
 * order of the units of pages in kernels/ops.h; the classes of 1, 2 and 4 members
 * are its subtrees (class c has the units c, c + size, ...), so these sizes
 * give the same bits. */
#ifndef PARALLEL_CACHE_PLACEMENT_H
#define PARALLEL_CACHE_PLACEMENT_H

#include <stdint.h>

/* The member that holds `page` (or class `page`) of a sequence with this offset, 0 .. size - 1. */
int cache_placement_member(int size, int offset, int64_t page);

/* How many of the pages [0, n_pages) member `index` holds: n_pages / size, rounded down or up. */
int64_t cache_placement_count(int size, int offset, int index, int64_t n_pages);

/* Pages that any member must have room for, so that `n_sequences` of at most `max_pages` each, and
 * of `n_pages` together, fit with any offsets: a share, and less than a page more for each sequence. */
int64_t cache_placement_room(int size, int n_sequences, int64_t max_pages, int64_t n_pages);

/* The offset of a sequence that begins while member i holds held[i] pages: the lowest of those that
 * hold the fewest. */
int cache_placement_offset(int size, const int64_t *held);

/* The first distance of classes that meet: the largest power of two below `size`, 0 for 1. */
int cache_placement_stride(int size);

#endif
