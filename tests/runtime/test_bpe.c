/* Merging against the definition: look for the lowest rank, merge, start again. */
#include "runtime/bpe.h"
#include "runtime/tokenizer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { N_LETTERS = 4, N_MERGES = 60, MAX_LENGTH = 400 };

struct rule {
    int32_t left, right, id;
};

static uint32_t random_state = 20261123;
static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 1664525U + 1013904223U;
    return (random_state >> 8) % n;
}

/* Random rules: a merge joins any two ids that exist before it. */
static void make_rules(struct bpe *bpe, struct rule *rule)
{
    assert_int_equal(bpe_open(bpe, N_MERGES), STATUS_OK);
    for (int i = 0; i < N_LETTERS; i++)
        bpe->byte_id['a' + i] = i;
    for (int i = 0; i < N_MERGES;) {
        struct rule new = {(int32_t)random_below((uint32_t)(N_LETTERS + i)),
                           (int32_t)random_below((uint32_t)(N_LETTERS + i)), N_LETTERS + i};
        int is_known = 0;
        for (int k = 0; k < i; k++)
            is_known |= rule[k].left == new.left &&rule[k].right == new.right;
        if (is_known)
            continue;
        rule[i] = new;
        bpe_add_merge(bpe, new.left, new.right, (uint32_t)i, new.id);
        i++;
    }
}

static size_t by_definition(int32_t *id, const struct rule *rule, const char *word, size_t length)
{
    size_t count = length;
    for (size_t i = 0; i < length; i++)
        id[i] = word[i] - 'a';
    for (int r = 0; r < N_MERGES;) {
        size_t at = 0;
        while (at + 1 < count && (id[at] != rule[r].left || id[at + 1] != rule[r].right))
            at++;
        if (at + 1 >= count) {
            r++;
            continue;
        }
        id[at] = rule[r].id;
        count--;
        memmove(id + at + 1, id + at + 2, (count - at - 1) * sizeof *id);
        r = 0;
    }
    return count;
}

static void the_lowest_rank_is_merged_first_and_the_leftmost_among_equals(void **state)
{
    (void)state;
    static const size_t lengths[] = {0, 1, 2, 3, 7, 20, 47, 48, 49, 50, 97, 200, MAX_LENGTH};
    for (int round = 0; round < 60; round++) {
        struct bpe bpe;
        struct bpe_scratch scratch = {0};
        struct rule rule[N_MERGES];
        make_rules(&bpe, rule);
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            char word[MAX_LENGTH];
            int32_t expected[MAX_LENGTH];
            struct token_list ids = {0};
            for (size_t i = 0; i < lengths[l]; i++)
                word[i] = (char)('a' + random_below(1 + (uint32_t)round % N_LETTERS));
            size_t count = by_definition(expected, rule, word, lengths[l]);
            assert_int_equal(bpe_encode(&bpe, &scratch, &ids, word, lengths[l]), STATUS_OK);
            assert_int_equal(ids.count, count);
            if (count > 0)
                assert_memory_equal(ids.id, expected, count * sizeof *expected);
            token_list_free(&ids);
        }
        bpe_scratch_free(&scratch);
        bpe_close(&bpe);
    }
}

static void unknown_bytes_give_the_unknown_id_or_nothing(void **state)
{
    (void)state;
    struct bpe bpe;
    struct bpe_scratch scratch = {0};
    struct token_list ids = {0};
    assert_int_equal(bpe_open(&bpe, 0), STATUS_OK);
    bpe.byte_id['a'] = 0;
    assert_int_equal(bpe_encode(&bpe, &scratch, &ids, "xaxxa", 5), STATUS_OK);
    assert_int_equal(ids.count, 2);
    bpe.unknown_id = 9;
    assert_int_equal(bpe_encode(&bpe, &scratch, &ids, "xaxxa", 5), STATUS_OK);
    assert_int_equal(ids.count, 2 + 5);
    bpe.fuses_unknown = 1;
    assert_int_equal(bpe_encode(&bpe, &scratch, &ids, "xaxxa", 5), STATUS_OK);
    assert_int_equal(ids.count, 2 + 5 + 4);
    token_list_free(&ids);
    bpe_scratch_free(&scratch);
    bpe_close(&bpe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_rank_is_merged_first_and_the_leftmost_among_equals),
        cmocka_unit_test(unknown_bytes_give_the_unknown_id_or_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
