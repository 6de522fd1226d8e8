/* cmocka_main.h - what cmocka.h needs before it. */
#ifndef TESTS_PARALLEL_CMOCKA_MAIN_H
#define TESTS_PARALLEL_CMOCKA_MAIN_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#endif
