/* Letters between the first and the last rank of a world, whoever of the two is ahead. */
#include "parallel/mailbox.h"

#include "mpi_check.h"
#include "parallel/comm.h"
#include "tests/random.h"

enum { CAPACITY = 5, LETTERS = 200, BYTES_MAX = 400000 };

/* Small ones as often as large ones; the same on both ends. */
static int64_t bytes_of(int letter)
{
    uint64_t seed = (uint64_t)letter;
    return (int64_t)(random_bits(&seed) % BYTES_MAX) >> random_bits(&seed) % 20;
}

static unsigned char byte_of(int letter, int64_t place)
{
    return (unsigned char)(letter * 31 + place * 7 + place / 251);
}

static void fill(unsigned char *data, int letter)
{
    for (int64_t i = 0; i < bytes_of(letter); i++)
        data[i] = byte_of(letter, i);
}

static int is_right(const unsigned char *data, int letter)
{
    int64_t bytes = bytes_of(letter);
    for (int64_t i = 0; i < bytes; i++)
        if (data[i] != byte_of(letter, i))
            return 0;
    return data[bytes] == 0xee; /* nothing behind it */
}

/* Up to CAPACITY are expected at a time. */
static void receive_all(struct mailbox *box)
{
    unsigned char *data[CAPACITY];
    for (int i = 0; i < CAPACITY; i++) {
        data[i] = malloc(BYTES_MAX + 1);
        REQUIRE(data[i] != NULL);
    }
    uint64_t seed = 3;
    for (int expected = 0, taken = 0; taken < LETTERS;) {
        int may_expect = expected < LETTERS && expected - taken < CAPACITY;
        if (may_expect && (expected == taken || random_bits(&seed) % 2)) {
            memset(data[expected % CAPACITY], 0xee, BYTES_MAX + 1);
            CHECK(mailbox_expect(box, data[expected % CAPACITY], bytes_of(expected)) == STATUS_OK);
            expected++;
            continue;
        }
        CHECK(mailbox_take(box) == STATUS_OK);
        CHECK(is_right(data[taken % CAPACITY], taken));
        taken++;
    }
    for (int i = 0; i < CAPACITY; i++)
        free(data[i]);
}

static void send_all(struct mailbox *box)
{
    unsigned char *data = malloc(BYTES_MAX);
    REQUIRE(data != NULL);
    for (int letter = 0; letter < LETTERS; letter++) {
        fill(data, letter);
        CHECK(mailbox_send(box, data, bytes_of(letter)) == STATUS_OK);
    }
    free(data);
}

/* What made a pipeline hang: one sends back only when it is rid of its letter, the other sends first, and does not
 * look after MPI meanwhile. */
static void a_sender_is_not_held_up(struct mailbox *box, struct comm *pair)
{
    unsigned char *data[CAPACITY];
    for (int i = 0; i < CAPACITY; i++) {
        data[i] = calloc(BYTES_MAX, 1);
        REQUIRE(data[i] != NULL);
    }
    for (int round = 0; round < 20; round++) {
        if (pair->group.index == 0)
            for (int i = 0; i < CAPACITY; i++)
                CHECK(mailbox_expect(box, data[i], BYTES_MAX) == STATUS_OK);
        else
            for (int i = 0; i < CAPACITY; i++) {
                data[0][BYTES_MAX - 1] = (unsigned char)(round + i);
                CHECK(mailbox_send(box, data[0], BYTES_MAX) == STATUS_OK);
            }
        CHECK(pair->ops->barrier(pair) == STATUS_OK); /* in shared memory */
        for (int i = 0; i < CAPACITY && pair->group.index == 0; i++) {
            CHECK(mailbox_take(box) == STATUS_OK);
            CHECK(data[i][BYTES_MAX - 1] == round + i);
        }
        if (pair->group.index == 1) /* a later letter sees that the others have gone */
            CHECK(mailbox_send(box, data[0], 1) == STATUS_OK);
        else
            CHECK(mailbox_expect(box, data[0], 1) == STATUS_OK && mailbox_take(box) == STATUS_OK);
    }
    for (int i = 0; i < CAPACITY; i++)
        free(data[i]);
}

/* A job that ends after a failure leaves letters that were never sent. */
static void letters_that_never_come_are_given_up(const struct group *pair)
{
    static char data[64];
    struct mailbox *box;
    REQUIRE(mailbox_open(&box, pair, 2) == STATUS_OK);
    if (pair->index == 0)
        for (int i = 0; i < 2; i++)
            CHECK(mailbox_expect(box, data, sizeof data) == STATUS_OK);
    mailbox_close(box);
}

/* Member 0 expects less than comes, and more. */
static void a_letter_of_another_size_is_an_error(const struct group *pair)
{
    static char data[200];
    for (int is_longer = 0; is_longer < 2; is_longer++) {
        struct mailbox *box;
        REQUIRE(mailbox_open(&box, pair, 1) == STATUS_OK);
        if (pair->index == 1) {
            CHECK(mailbox_send(box, data, is_longer ? 200 : 50) == STATUS_OK);
        } else {
            CHECK(mailbox_expect(box, data, 100) == STATUS_OK);
            CHECK(mailbox_take(box) == STATUS_COMM);
        }
        mailbox_close(box);
    }
}

int main(int argc, char **argv)
{
    check_begin(&argc, &argv);
    int size = check_process.size, rank = check_process.rank;
    int is_end = size > 1 && (rank == 0 || rank == size - 1);
    const struct group alone = {"alone", 1, 0, rank, 1}, ends = {"ends", 2, rank > 0, 0, size - 1};
    struct mailbox *box;
    REQUIRE(mailbox_open(&box, is_end ? &ends : &alone, CAPACITY) == STATUS_OK);
    CHECK((box != NULL) == is_end);
    if (is_end) {
        struct comm pair;
        (rank == 0 ? receive_all : send_all)(box);
        REQUIRE(comm_open(&pair, &ends) == STATUS_OK);
        a_sender_is_not_held_up(box, &pair);
        comm_close(&pair);
        letters_that_never_come_are_given_up(&ends);
        a_letter_of_another_size_is_an_error(&ends);
    }
    mailbox_close(box);
    return check_end("test_mpi_mailbox");
}
