/* test_mpi_memory_plan.c - needs of the ranks of a node are added up and compared with what is free. */
#include "tests/parallel/mpi_check.h"

#include "runtime/memory_plan.h"

static const int64_t other = 48 << 20; /* of a rank, for what is not counted */
static struct free_memory pretended;

static void pretend(struct free_memory *memory)
{
    *memory = pretended;
}

static const struct device_ops device = {.name = "pretended", .free_memory = pretend};

/* The ranks of this test are on one node. */
static void a_plan_fits_up_to_the_last_byte(struct comm *world)
{
    int n = check_process.size;
    struct memory_plan plan = {.weights = 1000, .workspace = 200, .cache = 30 + check_process.rank};
    int64_t wanted = n * (1000 + 200 + 30 + other) + n * (n - 1) / 2;

    pretended = (struct free_memory){INT64_MAX, wanted};
    CHECK(memory_plan_check(&plan, &check_process, &device, world, "advice") == STATUS_OK);
    pretended.shared = wanted - 1;
    CHECK(memory_plan_check(&plan, &check_process, &device, world, "advice") == STATUS_NO_MEMORY);
    CHECK(strstr(status_text(), "weights") && strstr(status_text(), "cache") &&
          strstr(status_text(), "wanted") && strstr(status_text(), "free; advice"));
    CHECK(n == 1 || strstr(status_text(), check_process.host) != NULL);
}

static void a_limit_of_one_process_counts_for_it_alone(struct comm *world)
{
    int is_last = check_process.rank == check_process.size - 1;
    struct memory_plan plan = {.weights = 5000};
    pretended = (struct free_memory){is_last ? 4999 + other : INT64_MAX, INT64_MAX};
    enum status status = memory_plan_check(&plan, &check_process, &device, world, "advice");
    CHECK(status == (is_last ? STATUS_NO_MEMORY : STATUS_OK));
    CHECK(!is_last || strstr(status_text(), "ulimit -v") != NULL);
}

static void room_is_what_the_poorest_rank_has(struct comm *world)
{
    int n = check_process.size;
    struct memory_plan plan = {.weights = 100, .workspace = 10};
    int64_t room = 0;
    pretended = (struct free_memory){INT64_MAX, n * (110 + other + 7000) + n / 2};
    CHECK(memory_plan_room(&room, &plan, &check_process, &device, world) == STATUS_OK);
    CHECK(room == 7000);
    if (check_process.rank == 0)
        pretended.own = 110 + other + 6500;
    CHECK(memory_plan_room(&room, &plan, &check_process, &device, world) == STATUS_OK);
    CHECK(room == 6500);
    pretended = (struct free_memory){INT64_MAX, 0};
    CHECK(memory_plan_room(&room, &plan, &check_process, &device, world) == STATUS_OK);
    CHECK(room < 0);
}

int main(int argc, char **argv)
{
    struct comm world;
    check_begin(&argc, &argv);
    const struct group all = {
        .name = "world", .size = check_process.size, .index = check_process.rank, .stride = 1};
    REQUIRE(comm_open(&world, &all) == STATUS_OK);
    a_plan_fits_up_to_the_last_byte(&world);
    a_limit_of_one_process_counts_for_it_alone(&world);
    room_is_what_the_poorest_rank_has(&world);
    comm_close(&world);
    return check_end("memory_plan");
}
