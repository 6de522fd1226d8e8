/* The JSON header of a safetensors file.  The first 8 bytes: how many bytes of data stand behind
 * it, little endian. */
#include "runtime/safetensors_header.h"
#include "tests/fuzz/fuzz_input.h"

#include <string.h>

/* The entries cover the data, in order, each with the bytes of its shape. */
static void check_entries(const struct safetensors_header *header, int64_t data_bytes)
{
    int64_t covered = 0;
    for (int i = 0; i < header->n_entries; i++) {
        const struct safetensors_entry *entry = &header->entries[i];
        int64_t bytes = (int64_t)dtype_bytes(entry->dtype);
        REQUIRE(entry->offset == covered && entry->bytes >= 0);
        REQUIRE(entry->bytes <= data_bytes - entry->offset);
        REQUIRE(entry->offset % bytes == 0);
        REQUIRE(entry->ndim >= 0 && entry->ndim <= SAFETENSORS_MAX_DIMS);
        REQUIRE(entry->file == 3 && strlen(entry->name) < SAFETENSORS_MAX_HEADER);
        for (int j = 0; j < entry->ndim; j++) {
            REQUIRE(entry->dim[j] >= 0);
            if (entry->bytes > 0)
                bytes *= entry->dim[j];
        }
        REQUIRE(entry->bytes == 0 || entry->bytes == bytes);
        covered += entry->bytes;
    }
    REQUIRE(covered == data_bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors_header header;
    uint64_t data_bytes = 0;
    if (size < 8)
        return 0;
    for (int i = 7; i >= 0; i--)
        data_bytes = data_bytes << 8 | data[i];
    data_bytes &= INT64_MAX;
    enum status status = safetensors_header_parse(&header, (const char *)data + 8, size - 8,
                                                  (int64_t)data_bytes, 3, "model.safetensors");
    if (status != STATUS_OK)
        return fuzz_refused(status, "model.safetensors");
    check_entries(&header, (int64_t)data_bytes);
    safetensors_header_free(&header);
    return 0;
}
