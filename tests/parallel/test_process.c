/* A process that no launcher started, and launchers that cannot work. */
#include "cmocka_main.h"

#include "parallel/comm.h"
#include "parallel/process.h"
#include <mpi.h>
#include <stdlib.h>
#include <string.h>

static const char *const launcher_variables[] = {
    "OMPI_COMM_WORLD_SIZE", "PMIX_RANK",           "PMI_RANK", "PMI_SIZE", "SLURM_PROCID",
    "SLURM_JOB_ID",         "SLURM_STEP_NUM_TASKS"};

static int clear_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof launcher_variables / sizeof launcher_variables[0]; i++)
        unsetenv(launcher_variables[i]);
    return 0;
}

static void assert_alone(void)
{
    struct process process;
    int initialized = -1;
    assert_int_equal(process_is_launched(), 0);
    assert_int_equal(process_start(&process, NULL, NULL), STATUS_OK);
    assert_int_equal(process.rank, 0);
    assert_int_equal(process.size, 1);
    assert_int_equal(process.node_rank, 0);
    assert_int_equal(process.node_size, 1);
    assert_int_equal(process.node, 0);
    assert_int_equal(process.n_nodes, 1);
    assert_int_equal(process.uses_mpi, 0);
    assert_true(strlen(process.host) > 0);
    MPI_Initialized(&initialized);
    assert_int_equal(initialized, 0);
    process_end(&process);
    process_end(NULL);
}

static void alone_is_one_rank_without_mpi(void **state)
{
    (void)state;
    assert_alone();
}

/* The script of a batch job, and a shell of one task, have Slurm's variables but no other ranks. */
static void a_batch_script_is_not_a_launch(void **state)
{
    (void)state;
    setenv("SLURM_JOB_ID", "17", 1);
    setenv("SLURM_PROCID", "0", 1);
    assert_alone();
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    assert_alone();
}

static void srun_without_pmix_is_an_error_that_says_what_to_do(void **state)
{
    (void)state;
    struct process process;
    setenv("SLURM_JOB_ID", "17", 1);
    setenv("SLURM_PROCID", "2", 1);
    setenv("SLURM_STEP_NUM_TASKS", "4", 1);
    assert_int_equal(process_is_launched(), 1);
    assert_int_equal(process_start(&process, NULL, NULL), STATUS_COMM);
    assert_non_null(strstr(status_text(), "4 tasks"));
    assert_non_null(strstr(status_text(), "srun --mpi=pmix"));
    assert_int_equal(process.uses_mpi, 0);
}

static void launchers_are_seen(void **state)
{
    (void)state;
    const char *const signs[] = {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"};
    for (int i = 0; i < 3; i++) {
        setenv(signs[i], "1", 1);
        assert_int_equal(process_is_launched(), 1);
        unsetenv(signs[i]);
        assert_int_equal(process_is_launched(), 0);
    }
}

static void groups_of_several_need_a_launcher(void **state)
{
    (void)state;
    struct comm comm;
    struct group group = {.name = "tp", .size = 2, .stride = 1};
    assert_int_equal(comm_open(&comm, &group), STATUS_COMM);
    assert_non_null(strstr(status_text(), "mpirun"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(alone_is_one_rank_without_mpi, clear_environment),
        cmocka_unit_test_setup(a_batch_script_is_not_a_launch, clear_environment),
        cmocka_unit_test_setup(srun_without_pmix_is_an_error_that_says_what_to_do,
                               clear_environment),
        cmocka_unit_test_setup(launchers_are_seen, clear_environment),
        cmocka_unit_test_setup(groups_of_several_need_a_launcher, clear_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
