/* unit_tree.h - sums of units on their way through the tree of matrix.h.
 *
 * Unit 1 waits one level above unit 0 and joins it at once, and so on: at most
 * TREE_LEVELS sums wait.  An empty unit leaves its level without a sum.
 */
#ifndef KERNELS_CPU_UNIT_TREE_H
#define KERNELS_CPU_UNIT_TREE_H

#include "kernels/core/matrix.h"
#include "kernels/cpu/lanes.h"

enum { TREE_LEVELS = 4 };

struct unit_tree {
    float *level[TREE_LEVELS]; /* [rows] of n numbers, `stride` apart */
    int64_t rows, stride, n;
    int unit, depth;          /* the sum of `unit` goes to level[depth] */
    int has[TREE_LEVELS + 1]; /* the level holds a sum */
};

/* level[a] = level[a] + level[b] */
static inline void unit_tree_meet(const struct unit_tree *tree, int a, int b)
{
    for (int64_t r = 0; r < tree->rows; r++) {
        float *to = tree->level[a] + r * tree->stride;
        const float *from = tree->level[b] + r * tree->stride;
        int64_t i = 0;
        if (!tree->has[a])
            memcpy(to, from, (size_t)tree->n * sizeof *to);
        for (; tree->has[a] && i + LANES <= tree->n; i += LANES)
            lanes_store(to + i, lanes_add(lanes_load(to + i), lanes_load(from + i)));
        for (; tree->has[a] && i < tree->n; i++)
            to[i] += from[i];
    }
}

/* Ends the units before `unit`, so that level[depth] is its own. */
static inline void unit_tree_move(struct unit_tree *tree, int unit)
{
    for (; tree->unit < unit; tree->unit++) {
        tree->depth++;
        for (int done = tree->unit + 1; done % 2 == 0; done /= 2) {
            int b = --tree->depth, a = b - 1;
            if (tree->has[b])
                unit_tree_meet(tree, a, b);
            tree->has[a] |= tree->has[b];
        }
        tree->has[tree->depth] = 0;
    }
}

#endif
