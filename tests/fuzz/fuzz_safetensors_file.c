/* A whole safetensors file: opened, and every tensor read. */
#include "runtime/safetensors.h"
#include "tests/fuzz/fuzz_input.h"

#include <stdlib.h>
#include <string.h>

static void read_entry(const struct safetensors *checkpoint, const struct safetensors_entry *entry,
                       const uint8_t *data, size_t size)
{
    char *bytes = malloc((size_t)entry->bytes + 1);
    REQUIRE(bytes != NULL);
    REQUIRE(entry->offset >= 8 && entry->bytes <= (int64_t)size - entry->offset);
    REQUIRE(safetensors_find(checkpoint, entry->name) == entry);
    REQUIRE(safetensors_read(checkpoint, entry, 0, entry->bytes, bytes) == STATUS_OK);
    REQUIRE(memcmp(bytes, data + entry->offset, (size_t)entry->bytes) == 0);
    fuzz_refused(safetensors_read(checkpoint, entry, 1, entry->bytes, bytes), "weights");
    fuzz_refused(safetensors_read(checkpoint, entry, -1, 1, bytes), "weights");
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors *checkpoint = NULL;
    fuzz_put("weights", data, size);
    enum status status = safetensors_open_file(&checkpoint, fuzz_path("weights"));
    if (status != STATUS_OK)
        return fuzz_refused(status, "weights");
    const char *before = "";
    for (int i = 0; i < safetensors_count(checkpoint); i++) {
        const struct safetensors_entry *entry = safetensors_at(checkpoint, i);
        REQUIRE(i == 0 || strcmp(before, entry->name) < 0);
        read_entry(checkpoint, entry, data, size);
        before = entry->name;
    }
    safetensors_close(checkpoint);
    return 0;
}
