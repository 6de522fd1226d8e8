/* comm_agree and comm_same: all ranks go on, or all stop with the same text. */
#include "mpi_check.h"

#include "parallel/comm.h"
#include <unistd.h>

static struct comm comm;

static enum status fail_with(enum status code, const char *text)
{
    return status_fail(code, __FILE__, __LINE__, "%s", text);
}

/* "rank R (HOST): " of a member that runs on this machine. */
static const char *named(int rank, const char *text)
{
    static char line[STATUS_TEXT_MAX + 512];
    snprintf(line, sizeof line, "rank %d (%s): %s", rank, check_process.host, text);
    return line;
}

static void nobody_fails(void)
{
    status_set_text("older failure");
    CHECK(comm_agree(&comm, STATUS_OK) == STATUS_OK);
    CHECK(strcmp(status_text(), "older failure") == 0);
}

static void only_one_fails(int who)
{
    enum status own = STATUS_OK;
    status_set_text("a failure of before");
    if (comm.group.index == who)
        own = fail_with(STATUS_IO, "cannot read model.safetensors");
    CHECK(comm_agree(&comm, own) == STATUS_IO);
    if (comm.group.size > 1)
        CHECK(strcmp(status_text(), named(who, "cannot read model.safetensors")) == 0);
    else
        CHECK(strcmp(status_text(), "cannot read model.safetensors") == 0);
    CHECK(strlen(status_frames()) > 0);
}

static void all_fail_alike(void)
{
    CHECK(comm_agree(&comm, fail_with(STATUS_USAGE, "--ep 3 does not fit")) == STATUS_USAGE);
    CHECK(strcmp(status_text(), "--ep 3 does not fit") == 0);
}

/* The code comes from the lowest one as well. */
static void all_fail_differently(void)
{
    char text[64];
    snprintf(text, sizeof text, "member %d has no memory", comm.group.index);
    enum status own = fail_with(comm.group.index == 0 ? STATUS_NO_MEMORY : STATUS_DEVICE, text);
    CHECK(comm_agree(&comm, own) == STATUS_NO_MEMORY);
    const char *first = "member 0 has no memory";
    CHECK(strcmp(status_text(), comm.group.size > 1 ? named(0, first) : first) == 0);
}

/* All but the lowest failing one stay silent. */
static void the_upper_half_fails(void)
{
    int size = comm.group.size, low = size / 2;
    char text[64];
    snprintf(text, sizeof text, "text of member %d", comm.group.index);
    enum status own = comm.group.index >= low ? fail_with(STATUS_INVALID, text) : STATUS_OK;
    CHECK(comm_agree(&comm, own) == STATUS_INVALID);
    snprintf(text, sizeof text, "text of member %d", low);
    CHECK(strcmp(status_text(), size > 1 ? named(low, text) : text) == 0);
}

static void long_texts_are_cut_and_keep_their_beginning(void)
{
    char text[2 * STATUS_TEXT_MAX];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    int last = comm.group.size - 1;
    enum status own = comm.group.index == last ? fail_with(STATUS_IO, text) : STATUS_OK;
    CHECK(comm_agree(&comm, own) == STATUS_IO);
    CHECK(strlen(status_text()) == STATUS_TEXT_MAX - 1);
    if (last > 0)
        CHECK(strncmp(status_text(), named(last, "xxx"), strlen(named(last, "xxx"))) == 0);

    /* All with the same long text: nothing is added and nothing is cut. */
    text[STATUS_TEXT_MAX - 1] = '\0';
    CHECK(comm_agree(&comm, fail_with(STATUS_IO, text)) == STATUS_IO);
    CHECK(strcmp(status_text(), text) == 0);
}

/* What MPI_TRY writes names the rank already. */
static void a_text_that_names_its_rank_is_left_alone(void)
{
    int last = comm.group.size - 1;
    const char *text = named(last, "MPI_Bcast: lost");
    enum status own = comm.group.index == last ? fail_with(STATUS_COMM, text) : STATUS_OK;
    CHECK(comm_agree(&comm, own) == STATUS_COMM);
    CHECK(strcmp(status_text(), text) == 0);
}

static void same_hashes_pass(void)
{
    CHECK(comm_same(&comm, "the configuration", UINT64_C(0xfedcba9876543210)) == STATUS_OK);
    CHECK(comm_same(&comm, "the configuration", 0) == STATUS_OK);
}

/* Differences in any bit count, and the lowest rank that differs is named. */
static void other_hashes_are_named(int from, int bit)
{
    char expected[1024];
    uint64_t hash = comm.group.index >= from ? UINT64_C(1) << bit : 0;
    enum status status = comm_same(&comm, "the tokenizer", hash);
    CHECK(status == (from < comm.group.size ? STATUS_INVALID : STATUS_OK));
    snprintf(
        expected, sizeof expected,
        "the tokenizer differs between ranks: hash 0000000000000000 on rank 0 (%s), %016llx on "
        "rank %d (%s);",
        check_process.host, 1ull << bit, from, check_process.host);
    if (from < comm.group.size)
        CHECK(strncmp(status_text(), expected, strlen(expected)) == 0);
}

int main(int argc, char **argv)
{
    check_begin(&argc, &argv);
    struct mesh mesh;
    struct mesh_spec spec = {.world_size = check_process.size};
    REQUIRE(mesh_build(&mesh, &spec, check_process.rank) == STATUS_OK);
    REQUIRE(comm_open(&comm, &mesh.world) == STATUS_OK);
    nobody_fails();
    for (int who = 0; who < check_process.size; who++)
        only_one_fails(who);
    all_fail_alike();
    all_fail_differently();
    the_upper_half_fails();
    long_texts_are_cut_and_keep_their_beginning();
    a_text_that_names_its_rank_is_left_alone();
    same_hashes_pass();
    for (int from = 1; from <= check_process.size; from++)
        for (int bit = 0; bit < 64; bit += 21)
            other_hashes_are_named(from, bit);
    comm_close(&comm);
    return check_end("test_mpi_agree");
}
