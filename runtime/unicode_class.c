#include "runtime/unicode_class.h"

int is_in_ranges(uint32_t code, const struct code_range *range, size_t count)
{
    size_t low = 0, high = count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code > range[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low < count && code >= range[low].first;
}

int is_white_space(uint32_t code)
{
    if (code < 0x80)
        return code == ' ' || (code >= '\t' && code <= '\r');
    return code == 0x85 || code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) ||
           code == 0x2028 || code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

int is_word(uint32_t code)
{
    return is_in_ranges(code, unicode_word, n_unicode_word);
}

int is_numeric(uint32_t code)
{
    if (code < 0x80)
        return code >= '0' && code <= '9';
    return is_in_ranges(code, unicode_numeric, n_unicode_numeric);
}
