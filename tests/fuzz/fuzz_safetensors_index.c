/* model.safetensors.index.json beside two small shards. */
#include "runtime/safetensors.h"
#include "tests/fuzz/fuzz_input.h"

#include <string.h>

static const char one[] = "model-00001-of-00002.safetensors";
static const char two[] = "model-00002-of-00002.safetensors";

static void put_shard(const char *name, const char *header)
{
    char file[512] = {0};
    size_t length = strlen(header);
    REQUIRE(length < 256);
    file[0] = (char)length;
    memcpy(file + 8, header, length);
    fuzz_put(name, file, 8 + length + 8);
}

/* Once: tensors a and b in the first file, c in the second; `broken` is none of this format. */
static void put_shards(void)
{
    put_shard(one, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
                   "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[4,8]}}");
    put_shard(two, "{\"c\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}");
    put_shard("again", "{\"c\":{\"dtype\":\"U8\",\"shape\":[8],\"data_offsets\":[0,8]}}");
    put_shard("broken", "{\"a\":1}");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int has_shards;
    struct safetensors *checkpoint = NULL;
    char bytes[8];
    if (!has_shards)
        put_shards();
    has_shards = 1;
    fuzz_put("model.safetensors.index.json", data, size);
    enum status status = safetensors_open(&checkpoint, fuzz_directory());
    if (status != STATUS_OK)
        return fuzz_refused(status, fuzz_directory());
    /* what the index and the files agree on is one of few sets */
    int count = safetensors_count(checkpoint);
    REQUIRE(count >= 1 && count <= 3);
    for (int i = 0; i < count; i++) {
        const struct safetensors_entry *entry = safetensors_at(checkpoint, i);
        REQUIRE(strchr("abc", entry->name[0]) != NULL && entry->name[1] == '\0');
        REQUIRE(strncmp(safetensors_path(checkpoint, entry), fuzz_directory(),
                        strlen(fuzz_directory())) == 0);
        REQUIRE(safetensors_read(checkpoint, entry, 0, entry->bytes, bytes) == STATUS_OK);
    }
    safetensors_close(checkpoint);
    return 0;
}
