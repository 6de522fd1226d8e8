/* option_nearest.c - the known name that a mistyped one probably meant: fewest insertions, deletions,
 * replacements and swaps of neighbours (optimal string alignment). */
#include "launcher/option_table.h"

#include <string.h>

enum { NAME_MAX_LENGTH = 63 };

static int smaller(int a, int b)
{
    return a < b ? a : b;
}

static int distance(const char *a, const char *b)
{
    int row[3][NAME_MAX_LENGTH + 1];
    size_t length_a = strnlen(a, NAME_MAX_LENGTH), length_b = strnlen(b, NAME_MAX_LENGTH);
    int *before = row[0], *last = row[1], *now = row[2];

    for (size_t j = 0; j <= length_b; j++)
        last[j] = (int)j;
    for (size_t i = 1; i <= length_a; i++) {
        now[0] = (int)i;
        for (size_t j = 1; j <= length_b; j++) {
            int best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = smaller(best, smaller(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = smaller(best, before[j - 2] + 1);
            now[j] = best;
        }
        int *oldest = before;
        before = last;
        last = now;
        now = oldest;
    }
    return last[length_b];
}

const char *option_nearest(const char *name, enum command command)
{
    const char *nearest = NULL;
    int best = 0;
    for (int i = 0; i < option_count; i++) {
        if (!option_applies(&option_table[i], command))
            continue;
        int d = distance(name, option_table[i].name);
        if (nearest == NULL || d < best) {
            nearest = option_table[i].name;
            best = d;
        }
    }
    return nearest;
}

const char *command_nearest(const char *name)
{
    const char *nearest = command_table[0].name;
    for (int i = 1; i < COMMAND_COUNT; i++)
        if (distance(name, command_table[i].name) < distance(name, nearest))
            nearest = command_table[i].name;
    return nearest;
}
