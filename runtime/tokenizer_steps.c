#include "runtime/tokenizer_steps.h"
#include "runtime/split_pattern.h"
#include "runtime/tokenizer_json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a visitor gets: one step that is not a Sequence. */
typedef enum status step_visitor(void *context, const char *where, const char *type,
                                 const json_t *step);

enum { SEQUENCE_MAX_DEPTH = 8 };

/* Visits a step, or the members of a Sequence under `list_key`, in order. */
static enum status visit(const json_t *step, const char *where, const char *list_key,
                         step_visitor *visitor, void *context, int depth)
{
    const char *type;
    size_t length, index;
    json_t *list, *member;
    if (!step || json_is_null(step))
        return STATUS_OK;
    TRY(json_take_string(&type, &length, where, step, "type"));
    if (strcmp(type, "Sequence") != 0)
        return visitor(context, where, type, step);
    if (depth == SEQUENCE_MAX_DEPTH)
        FAIL(STATUS_INVALID, "%s: more than %d Sequences within each other", where,
             SEQUENCE_MAX_DEPTH);
    TRY(json_take_array(&list, where, step, list_key));
    json_array_foreach(list, index, member)
    {
        char place[JSON_PLACE_MAX];
        snprintf(place, sizeof place, "%.180s.%.20s[%zu]", where, list_key, index);
        if (!json_is_object(member))
            FAIL(STATUS_INVALID, "%s is %s, not an object", place, json_kind(member));
        TRY(visit(member, place, list_key, visitor, context, depth + 1));
    }
    return STATUS_OK;
}

static enum status refuse(void *context, const char *where, const char *type, const json_t *step)
{
    (void)context;
    (void)step;
    FAIL(STATUS_UNSUPPORTED, "%s.type \"%.60s\": no normalizer is known", where, type);
}

enum status tokenizer_steps_refuse_normalizer(const json_t *normalizer)
{
    return visit(normalizer, "normalizer", "normalizers", refuse, NULL, 0);
}

struct reading {
    struct pre_tokenizer *steps;
    int has_byte_level;
};

static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

enum status tokenizer_steps_add_split(struct pre_tokenizer *steps, enum split_behavior behavior,
                                      int invert, const char *pattern, size_t length,
                                      int is_literal)
{
    char *translated;
    size_t translated_length;
    struct pre_tokenizer_step *step = &steps->step[steps->n_steps];
    TRY((is_literal ? split_pattern_quote
                    : split_pattern_translate)(&translated, &translated_length, pattern, length));
    enum status status = split_regex_open(&step->regex, translated, translated_length);
    free(translated);
    if (status != STATUS_OK)
        return status;
    step->behavior = behavior;
    step->invert = invert;
    steps->n_steps++;
    return STATUS_OK;
}

static enum status read_behavior(enum split_behavior *behavior, const char *where,
                                 const json_t *step)
{
    static const char *const name[] = {"Isolated", "Removed", "MergedWithPrevious",
                                       "MergedWithNext", "Contiguous"};
    const char *text;
    size_t length;
    TRY(json_take_string(&text, &length, where, step, "behavior"));
    for (int i = 0; i < 5; i++)
        if (strcmp(text, name[i]) == 0) {
            *behavior = (enum split_behavior)i;
            return STATUS_OK;
        }
    FAIL(STATUS_UNSUPPORTED, "%s.behavior \"%.60s\" is not known", where, text);
}

static enum status read_split(struct pre_tokenizer *steps, const char *where, const json_t *step)
{
    enum split_behavior behavior = SPLIT_ISOLATED;
    json_t *pattern;
    const char *text;
    char place[JSON_PLACE_MAX];
    size_t length;
    int invert;
    TRY(read_behavior(&behavior, where, step));
    TRY(json_take_flag(&invert, where, step, "invert", 0));
    TRY(json_take_object(&pattern, where, step, "pattern"));
    int is_literal = json_object_get(pattern, "String") != NULL;
    snprintf(place, sizeof place, "%.200s.pattern", where);
    if (json_object_size(pattern) != 1)
        FAIL(STATUS_INVALID, "%s does not hold exactly one of Regex and String", place);
    TRY(json_take_string(&text, &length, place, pattern, is_literal ? "String" : "Regex"));
    enum status status =
        tokenizer_steps_add_split(steps, behavior, invert, text, length, is_literal);
    return status == STATUS_OK ? status : status_prefix(status, "%s \"%.300s\"", place, text);
}

static enum status read_byte_level(struct reading *reading, const char *where, const json_t *step)
{
    int adds_space, use_regex;
    TRY(json_take_flag(&adds_space, where, step, "add_prefix_space", 1));
    TRY(json_take_flag(&use_regex, where, step, "use_regex", 1));
    if (adds_space)
        FAIL(STATUS_UNSUPPORTED, "%s.add_prefix_space: only false is known", where);
    reading->has_byte_level = 1;
    if (!use_regex)
        return STATUS_OK;
    return tokenizer_steps_add_split(reading->steps, SPLIT_ISOLATED, 0, gpt2_pattern,
                                     sizeof gpt2_pattern - 1, 0);
}

static enum status read_step(void *context, const char *where, const char *type, const json_t *step)
{
    struct reading *reading = context;
    struct pre_tokenizer *steps = reading->steps;
    if (reading->has_byte_level)
        FAIL(STATUS_UNSUPPORTED, "%s: \"%.60s\" after ByteLevel", where, type);
    if (steps->n_steps == PRE_TOKENIZER_MAX_STEPS)
        FAIL(STATUS_UNSUPPORTED, "%s: more than %d steps", where, PRE_TOKENIZER_MAX_STEPS);
    if (strcmp(type, "Split") == 0)
        return read_split(steps, where, step);
    if (strcmp(type, "ByteLevel") == 0)
        return read_byte_level(reading, where, step);
    if (strcmp(type, "Digits") != 0)
        FAIL(STATUS_UNSUPPORTED, "%s.type \"%.60s\": known are Split, Digits and ByteLevel", where,
             type);
    int is_individual;
    TRY(json_take_flag(&is_individual, where, step, "individual_digits", 0));
    struct pre_tokenizer_step digits = {.behavior =
                                            is_individual ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS};
    steps->step[steps->n_steps++] = digits;
    return STATUS_OK;
}

enum status tokenizer_steps_read(struct pre_tokenizer *steps, const json_t *pre_tokenizer)
{
    struct reading reading = {.steps = steps};
    TRY(visit(pre_tokenizer, "pre_tokenizer", "pretokenizers", read_step, &reading, 0));
    if (!reading.has_byte_level)
        FAIL(STATUS_UNSUPPORTED, "pre_tokenizer has no ByteLevel: only byte-level BPE is known");
    return STATUS_OK;
}

static enum status check_decoder(void *context, const char *where, const char *type,
                                 const json_t *step)
{
    (void)context;
    (void)step;
    if (strcmp(type, "ByteLevel") != 0)
        FAIL(STATUS_UNSUPPORTED, "%s.type \"%.60s\": only ByteLevel is known", where, type);
    return STATUS_OK;
}

enum status tokenizer_steps_check_decoder(const json_t *decoder)
{
    return visit(decoder, "decoder", "decoders", check_decoder, NULL, 0);
}

struct bos_search {
    int bos;
    const struct vocabulary *vocabulary;
};

/* The id that stands for a special token of a template. */
static enum status template_id(int *id, const struct vocabulary *vocabulary, const char *where,
                               const json_t *template, const json_t *piece)
{
    const char *name;
    size_t length;
    json_t *table, *entry, *ids;
    char place[JSON_PLACE_MAX];
    snprintf(place, sizeof place, "%.200s.single", where);
    TRY(json_take_string(&name, &length, place, piece, "id"));
    TRY(json_take_object(&table, where, template, "special_tokens"));
    snprintf(place, sizeof place, "%.100s.special_tokens", where);
    TRY(json_take_object(&entry, place, table, name));
    snprintf(place, sizeof place, "%.100s.special_tokens[\"%.60s\"]", where, name);
    TRY(json_take_array(&ids, place, entry, "ids"));
    if (json_array_size(ids) != 1)
        FAIL(STATUS_UNSUPPORTED, "%s.ids holds %zu ids, only one is known", place,
             json_array_size(ids));
    return json_to_index(id, place, json_array_get(ids, 0), vocabulary->size);
}

static enum status read_template(struct bos_search *search, const char *where,
                                 const json_t *template)
{
    json_t *single, *special, *piece;
    size_t index;
    TRY(json_take_array(&single, where, template, "single"));
    json_array_foreach(single, index, piece)
    {
        if (json_object_get(piece, "Sequence"))
            break;
        TRY(json_take_object(&special, where, piece, "SpecialToken"));
        if (search->bos >= 0)
            FAIL(STATUS_UNSUPPORTED, "%s: more than one token before the text", where);
        TRY(template_id(&search->bos, search->vocabulary, where, template, special));
    }
    return STATUS_OK;
}

static enum status read_processor(void *context, const char *where, const char *type,
                                  const json_t *step)
{
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(context, where, step);
    if (strcmp(type, "ByteLevel") == 0) /* changes offsets only */
        return STATUS_OK;
    FAIL(STATUS_UNSUPPORTED, "%s.type \"%.60s\": known are TemplateProcessing and ByteLevel", where,
         type);
}

enum status tokenizer_steps_read_bos(int *bos, const struct vocabulary *vocabulary,
                                     const json_t *post_processor)
{
    struct bos_search search = {.bos = -1, .vocabulary = vocabulary};
    TRY(visit(post_processor, "post_processor", "processors", read_processor, &search, 0));
    *bos = search.bos;
    return STATUS_OK;
}
