/* Random steps: what replicas get of them, and the rows whose logits they owe. */
#include "runtime/replica_plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "tests/random.h"

enum { SEQUENCES = 40, TOKENS = 310, ROUNDS = 500 };

static struct step_entry entry[SEQUENCES];
static int32_t ids[TOKENS];

/* Some of the sequences, in any order, each once. */
static struct step_plan random_plan(uint64_t *seed)
{
    struct step_plan plan = {.entry = entry, .ids = ids};
    int32_t order[SEQUENCES];
    for (int32_t i = 0; i < SEQUENCES; i++)
        order[i] = i;
    for (int i = SEQUENCES - 1; i > 0; i--) {
        int other = (int)(random_bits(seed) % (uint64_t)(i + 1));
        int32_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    int n = 1 + (int)(random_bits(seed) % SEQUENCES);
    for (; plan.n_entries < n; plan.n_entries++) {
        int32_t most = plan.n_entries == 0 ? 150 : 4;
        int32_t count = 1 + (int32_t)(random_bits(seed) % (uint64_t)most);
        entry[plan.n_entries] = (struct step_entry){
            .sequence = order[plan.n_entries],
            .n_tokens = count,
            .first_logits = (int32_t)(random_bits(seed) % (uint64_t)(count + 1))};
        for (int t = 0; t < count; t++)
            ids[plan.n_tokens++] = (int32_t)(random_bits(seed) % 1000);
    }
    return plan;
}

/* The same, found by counting. */
static void expect_part(const struct replica_plan *part, const struct step_plan *all, int own)
{
    const int32_t *from = all->ids;
    int64_t row = 0, n_tokens = 0;
    int n = 0;
    for (int i = 0; i < all->n_entries; from += all->entry[i++].n_tokens) {
        const struct step_entry *whole = &all->entry[i];
        if (whole->sequence % part->n_replicas != own)
            continue;
        const struct step_entry *here = &part->plan.entry[n++];
        assert_int_equal(here->sequence * part->n_replicas + own, whole->sequence);
        assert_int_equal(here->n_tokens, whole->n_tokens);
        assert_int_equal(here->first_logits, whole->first_logits);
        assert_memory_equal(part->plan.ids + row, from, (size_t)whole->n_tokens * sizeof *from);
        row += whole->n_tokens;
    }
    assert_int_equal(part->plan.n_entries, n);
    assert_int_equal(part->plan.n_tokens, row);
    assert_int_equal(part->tokens[own], row);
    for (int r = 0; r < part->n_replicas; r++)
        n_tokens += part->tokens[r];
    assert_int_equal(n_tokens, all->n_tokens);
    assert_int_equal(part->all_tokens, all->n_tokens);
}

/* All blocks together are the wanted tokens of the replica, in order. */
static void expect_wanted(const struct replica_plan *part, const struct step_plan *all, int own)
{
    struct wanted_rows wanted = {.count = 0};
    int64_t row = 0;
    int block = 0, at = 0;
    for (int i = 0; i < all->n_entries; i++) {
        if (all->entry[i].sequence % part->n_replicas != own)
            continue;
        for (int t = 0; t < all->entry[i].n_tokens; t++, row++) {
            if (t < all->entry[i].first_logits)
                continue;
            if (at == wanted.count) {
                assert_true(block == 0 || wanted.count == LOGITS_ROWS);
                wanted_rows_build(&wanted, all, part->n_replicas, own, block++);
                at = 0;
            }
            assert_true(at < wanted.count);
            assert_int_equal(wanted.entry[at], i);
            assert_int_equal(wanted.token[at], t);
            assert_int_equal(wanted.row[at++], row);
        }
    }
    assert_int_equal(at, wanted.count);
    wanted_rows_build(&wanted, all, part->n_replicas, own, block);
    assert_int_equal(wanted.count, 0);
}

static void every_token_is_of_one_replica(void **state)
{
    uint64_t seed = 7;
    (void)state;
    for (int n_replicas = 1; n_replicas <= 8; n_replicas++) {
        struct replica_plan part;
        assert_int_equal(replica_plan_open(&part, n_replicas, SEQUENCES, TOKENS), STATUS_OK);
        for (int round = 0; round < ROUNDS; round++) {
            struct step_plan all = random_plan(&seed);
            for (int own = 0; own < n_replicas; own++) {
                replica_plan_build(&part, &all, own);
                expect_part(&part, &all, own);
                expect_wanted(&part, &all, own);
            }
        }
        replica_plan_close(&part);
    }
}

static void replicas_have_places_for_all_sequences(void **state)
{
    (void)state;
    for (int n = 1; n <= 50; n++)
        for (int n_replicas = 1; n_replicas <= 10; n_replicas++)
            for (int s = 0; s < n; s++) {
                assert_in_range(replica_of(s, n_replicas), 0, n_replicas - 1);
                assert_true(s / n_replicas < replica_sequences(n, n_replicas));
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_is_of_one_replica),
        cmocka_unit_test(replicas_have_places_for_all_sequences),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
