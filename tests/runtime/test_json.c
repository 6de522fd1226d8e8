#include "runtime/json.h"

#include "tests/runtime/file_fixture.h"

static json_t *root;
static struct json_place place;

static int parse(void **state)
{
    (void)state;
    static const char text[] =
        "{\"int\":7,\"real\":2.5,\"text\":\"abc\",\"yes\":true,\"no\":false,"
        "\"null\":null,\"list\":[1,2],\"object\":{},\"big\":9007199254740993}";
    place.name = "FILE";
    if (json_parse(&root, text, strlen(text), "FILE") != STATUS_OK)
        return -1;
    place.object = root;
    return 0;
}

static int release(void **state)
{
    (void)state;
    json_decref(root);
    return 0;
}

static void getters_give_what_stands_there(void **state)
{
    (void)state;
    int64_t number = 0;
    double real = 0;
    int flag = 0, index = -1;
    const char *text = NULL;
    const json_t *value = NULL;
    static const char *const names[] = {"xyz", "abc"};
    ASSERT_OK(json_get_int(&number, &place, "int", 7, 7));
    assert_int_equal(number, 7);
    ASSERT_OK(json_need_int(&number, &place, "big", 0, INT64_MAX));
    assert_true(number == 9007199254740993); /* 2^53 + 1: not through a double */
    ASSERT_OK(json_get_number(&real, &place, "real", 2.5, 2.5));
    assert_true(real > 2.4 && real < 2.6);
    ASSERT_OK(json_get_number(&real, &place, "int", 0, 10)); /* an integer is a number */
    assert_true(real > 6.9 && real < 7.1);
    ASSERT_OK(json_get_bool(&flag, &place, "yes"));
    assert_int_equal(flag, 1);
    ASSERT_OK(json_get_bool(&flag, &place, "no"));
    assert_int_equal(flag, 0);
    ASSERT_OK(json_get_string(&text, &place, "text"));
    assert_string_equal(text, "abc");
    ASSERT_OK(json_get_choice(&index, &place, "text", names, 2));
    assert_int_equal(index, 1);
    ASSERT_OK(json_get_array(&value, &place, "list"));
    assert_int_equal(json_array_size(value), 2);
    ASSERT_OK(json_get_object(&value, &place, "object"));
    assert_true(json_is_object(value));
}

static void absent_and_null_leave_the_default(void **state)
{
    (void)state;
    static const char *const keys[] = {"absent", "null"};
    for (int i = 0; i < 2; i++) {
        int64_t number = 42;
        double real = 1;
        int flag = 3, index = 5;
        const char *text = "default";
        const json_t *value = root;
        ASSERT_OK(json_get_int(&number, &place, keys[i], 0, 1));
        ASSERT_OK(json_get_number(&real, &place, keys[i], 0, 0));
        ASSERT_OK(json_get_bool(&flag, &place, keys[i]));
        ASSERT_OK(json_get_string(&text, &place, keys[i]));
        ASSERT_OK(json_get_choice(&index, &place, keys[i], NULL, 0));
        ASSERT_OK(json_get_array(&value, &place, keys[i]));
        ASSERT_OK(json_get_object(&value, &place, keys[i]));
        assert_int_equal(number, 42);
        assert_true(real > 0.9);
        assert_int_equal(flag, 3);
        assert_int_equal(index, 5);
        assert_string_equal(text, "default");
        assert_ptr_equal(value, root);
        assert_false(json_has(&place, keys[i]));
    }
    assert_true(json_has(&place, "int"));
    ASSERT_OK(json_require(&place, "null"));
}

static void errors_say_file_key_found_and_expected(void **state)
{
    (void)state;
    int64_t number = 42;
    double real = 0;
    int flag = 0;
    const char *text = NULL;
    const json_t *value = NULL;
    static const char *const names[] = {"red", "blue"};
    ASSERT_FAILS(STATUS_INVALID, "FILE: int is 7, expected an integer from 8 to 9",
                 json_get_int(&number, &place, "int", 8, 9));
    ASSERT_FAILS(STATUS_INVALID, "FILE: real is 2.5, expected an integer from 0 to 9",
                 json_get_int(&number, &place, "real", 0, 9));
    ASSERT_FAILS(STATUS_INVALID, "FILE: null is null, expected an integer from 0 to 9",
                 json_need_int(&number, &place, "null", 0, 9));
    ASSERT_FAILS(STATUS_INVALID, "FILE: absent is not there, expected an integer from 0 to 9",
                 json_need_int(&number, &place, "absent", 0, 9));
    ASSERT_FAILS(STATUS_INVALID, "FILE: absent is not there", json_require(&place, "absent"));
    ASSERT_FAILS(STATUS_INVALID, "FILE: real is 2.5, expected a number from 3 to 4",
                 json_get_number(&real, &place, "real", 3, 4));
    ASSERT_FAILS(STATUS_INVALID, "FILE: text is \"abc\", expected a number from 0 to 1",
                 json_get_number(&real, &place, "text", 0, 1));
    ASSERT_FAILS(STATUS_INVALID, "FILE: int is 7, expected true or false",
                 json_get_bool(&flag, &place, "int"));
    ASSERT_FAILS(STATUS_INVALID, "FILE: yes is true, expected a string",
                 json_get_string(&text, &place, "yes"));
    ASSERT_FAILS(STATUS_INVALID, "FILE: text is \"abc\", expected one of red, blue",
                 json_get_choice(&flag, &place, "text", names, 2));
    ASSERT_FAILS(STATUS_INVALID, "FILE: text is \"abc\", expected red",
                 json_get_choice(&flag, &place, "text", names, 1));
    ASSERT_FAILS(STATUS_INVALID, "FILE: no is false, expected an array",
                 json_get_array(&value, &place, "no"));
    ASSERT_FAILS(STATUS_INVALID, "FILE: list is an array of 2, expected an object",
                 json_get_object(&value, &place, "list"));
    assert_int_equal(number, 42);
}

static void long_strings_are_cut_in_messages(void **state)
{
    (void)state;
    char long_text[200], text[64];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = '\0';
    json_t *value = json_string(long_text);
    const char *described = json_describe(text, value);
    assert_true(strlen(described) < 64);
    assert_int_equal(described[0], '"');
    assert_int_equal(described[strlen(described) - 1], '"');
    json_decref(value);
    assert_string_equal(json_describe(text, NULL), "null");
}

static void files_are_read_whole(void **state)
{
    (void)state;
    char *text = NULL;
    size_t length = 0;
    json_t *read = NULL;
    ASSERT_OK(json_read(&read, fixture_text("x.json", "{\"a\":[1]}")));
    assert_int_equal(json_array_size(json_object_get(read, "a")), 1);
    json_decref(read);
    ASSERT_OK(json_read_text(&text, &length, fixture_write("x", "a\0b", 3)));
    assert_int_equal(length, 3);
    assert_memory_equal(text, "a\0b", 4);
    free(text);
    ASSERT_OK(json_read_text(&text, &length, fixture_text("x", "")));
    assert_int_equal(length, 0);
    free(text);
    ASSERT_FAILS(STATUS_INVALID, "x: not JSON at line 2, column 1",
                 json_read(&read, fixture_text("x", "\n}")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(getters_give_what_stands_there, parse, release),
        cmocka_unit_test_setup_teardown(absent_and_null_leave_the_default, parse, release),
        cmocka_unit_test_setup_teardown(errors_say_file_key_found_and_expected, parse, release),
        cmocka_unit_test(long_strings_are_cut_in_messages),
        cmocka_unit_test_setup_teardown(files_are_read_whole, fixture_open, fixture_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
