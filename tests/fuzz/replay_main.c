/* replay_main.c - runs a fuzz target without libFuzzer: every file of its corpus, then mutations of
 * them from a fixed seed, so that any compiler with any sanitizer proves something.
 *
 *     fuzz_NAME FOLDER [MUTATIONS [SEED]]     fuzz_NAME FILE
 *
 * The target runs in a child.  The input at work lies in memory that both share, so that the parent
 * can keep it as ./crash-fuzz_NAME when the child dies or gets stuck. */
#include "tests/fuzz/fuzz_input.h"
#include "tests/random.h"

#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { INPUT_MAX = 1 << 20, STUCK_S = 120 };

/* Shared between the two processes. */
struct at_work {
    long number; /* of the input: files first, then mutations */
    size_t size;
    uint8_t data[INPUT_MAX];
};

struct file {
    char name[256];
    uint8_t *data;
    size_t size;
};

struct corpus {
    struct file *file;
    size_t count;
};

static uint64_t random_state;

static size_t random_below(size_t limit)
{
    return limit == 0 ? 0 : (size_t)(random_bits(&random_state) % limit);
}

static void read_file(struct corpus *corpus, const char *folder, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s%s%s", folder, folder[0] == '\0' ? "" : "/", name);
    struct file *grown = realloc(corpus->file, (corpus->count + 1) * sizeof *grown);
    REQUIRE(grown != NULL);
    corpus->file = grown;
    struct file *file = &corpus->file[corpus->count++];
    FILE *stream = fopen(path, "rb");
    REQUIRE(stream != NULL);
    snprintf(file->name, sizeof file->name, "%.255s", name);
    file->data = malloc(INPUT_MAX);
    REQUIRE(file->data != NULL);
    file->size = fread(file->data, 1, INPUT_MAX, stream);
    fclose(stream);
}

static int by_name(const void *a, const void *b)
{
    const struct file *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static void read_corpus(struct corpus *corpus, const char *path)
{
    struct stat info;
    REQUIRE(stat(path, &info) == 0);
    if (!S_ISDIR(info.st_mode)) {
        read_file(corpus, "", path);
        return;
    }
    DIR *stream = opendir(path);
    REQUIRE(stream != NULL);
    for (struct dirent *item; (item = readdir(stream)) != NULL;)
        if (item->d_name[0] != '.')
            read_file(corpus, path, item->d_name);
    closedir(stream);
    REQUIRE(corpus->count > 0);
    qsort(corpus->file, corpus->count, sizeof *corpus->file, by_name);
}

static void free_corpus(struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->count; i++)
        free(corpus->file[i].data);
    free(corpus->file);
}

/* Replaces data[begin, end) by `count` bytes, when there is room. */
static void replace(struct at_work *input, size_t begin, size_t end, const void *bytes,
                    size_t count)
{
    if (input->size - (end - begin) + count > INPUT_MAX)
        return;
    memmove(input->data + begin + count, input->data + end, input->size - end);
    memcpy(input->data + begin, bytes, count);
    input->size = input->size - (end - begin) + count;
}

/* Texts that mean something to parsers. */
static void replace_by_word(struct at_work *input, size_t begin, size_t end)
{
    static const char *const words[] = {
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "null",
        "true",
        "0",
        "-1",
        "1e999",
        "0.5",
        "\\u0000",
        "\\ud800",
        "\xff",
        "\xc3",
        "[[[[[[[[",
        "",
        "{}",
        "\"\":[],",
        "\"a\"",
        "4294967296",
        "9223372036854775807",
        "18446744073709551616",
    };
    const char *word = words[random_below(sizeof words / sizeof words[0])];
    replace(input, begin, end, word, strlen(word));
}

static void mutate_once(struct at_work *input, const struct corpus *corpus)
{
    size_t begin = random_below(input->size + 1);
    size_t end = begin + random_below((input->size - begin < 16 ? input->size - begin : 16) + 1);
    const struct file *other = &corpus->file[random_below(corpus->count)];
    size_t from = random_below(other->size + 1);
    size_t count = random_below((other->size - from < 64 ? other->size - from : 64) + 1);
    uint8_t byte = (uint8_t)random_bits(&random_state);
    switch (random_below(6)) {
    case 0: /* another byte */
        if (begin < input->size)
            input->data[begin] = byte;
        break;
    case 1: /* one bit */
        if (begin < input->size)
            input->data[begin] ^= (uint8_t)(1u << (byte & 7));
        break;
    case 2:
        replace(input, begin, end, "", 0);
        break;
    case 3:
        replace_by_word(input, begin, begin + (end - begin) * (byte & 1));
        break;
    case 4:
        replace(input, begin, end, other->data + from, count);
        break;
    default: /* cut short, seldom */
        if ((byte & 7) == 0)
            input->size = begin;
    }
}

/* Runs the target on a copy of just the right size, so that a read behind the end is seen. */
static void run(const struct at_work *input)
{
    uint8_t *copy = malloc(input->size == 0 ? 1 : input->size);
    REQUIRE(copy != NULL);
    memcpy(copy, input->data, input->size);
    alarm(STUCK_S);
    LLVMFuzzerTestOneInput(copy, input->size);
    alarm(0);
    free(copy);
}

static void run_all(struct at_work *input, const struct corpus *corpus, long mutations)
{
    for (size_t i = 0; i < corpus->count; i++) {
        input->number = (long)i;
        input->size = corpus->file[i].size;
        memcpy(input->data, corpus->file[i].data, input->size);
        run(input);
    }
    for (long i = 0; i < mutations; i++) {
        const struct file *file = &corpus->file[random_below(corpus->count)];
        input->number = (long)corpus->count + i;
        input->size = file->size;
        memcpy(input->data, file->data, file->size);
        for (size_t n = random_below(6) + 1; n > 0; n--)
            mutate_once(input, corpus);
        run(input);
    }
    input->number = -1;
}

static struct at_work *share(void)
{
    FILE *file = tmpfile();
    REQUIRE(file != NULL && ftruncate(fileno(file), sizeof(struct at_work)) == 0);
    struct at_work *input =
        mmap(NULL, sizeof *input, PROT_READ | PROT_WRITE, MAP_SHARED, fileno(file), 0);
    REQUIRE(input != MAP_FAILED);
    fclose(file);
    return input;
}

/* Says which input the child died of, and keeps it. */
static int report(const struct at_work *input, const struct corpus *corpus, int ended,
                  const char *program)
{
    char path[512];
    const char *slash = strrchr(program, '/');
    if (input->number < 0) {
        printf("FAILED after the last input (status 0x%x): a leak?\n", (unsigned)ended);
        return 1;
    }
    snprintf(path, sizeof path, "crash-%.400s", slash == NULL ? program : slash + 1);
    FILE *file = fopen(path, "wb");
    if (file != NULL) {
        fwrite(input->data, 1, input->size, file);
        fclose(file);
    }
    size_t number = (size_t)input->number;
    printf("FAILED (status 0x%x%s): %s %s, %zu bytes, kept as %s\n", (unsigned)ended,
           WIFSIGNALED(ended) && WTERMSIG(ended) == SIGALRM ? ", stuck" : "",
           number < corpus->count ? "file" : "a mutation",
           number < corpus->count ? corpus->file[number].name : "", input->size, path);
    return 1;
}

int main(int argc, char **argv)
{
    struct corpus corpus = {0};
    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s FOLDER|FILE [MUTATIONS [SEED]]\n", argv[0]);
        return 2;
    }
    long mutations = argc > 2 ? atol(argv[2]) : 0;
    unsigned long long seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
    random_state = seed;
    read_corpus(&corpus, argv[1]);
    fuzz_directory(); /* the parent removes it, however the child ends */
    struct at_work *input = share();
    printf("%zu files, %ld mutations, seed %llu\n", corpus.count, mutations, seed);
    fflush(stdout);

    int ended = 0;
    pid_t child = fork();
    if (child == 0) {
        run_all(input, &corpus, mutations);
        free_corpus(&corpus);
        exit(0);
    }
    REQUIRE(child > 0 && waitpid(child, &ended, 0) == child);
    int failed = ended == 0 ? 0 : report(input, &corpus, ended, argv[0]);
    free_corpus(&corpus);
    munmap(input, sizeof *input);
    return failed;
}
