# The files of operations once more for AVX2 + FMA and for AVX-512 (layer `cpu` holds them as plain C).
# cpu_ops.c asks the CPU which of the three tables it takes.
file(GLOB isa_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/*.c)
list(FILTER isa_sources EXCLUDE REGEX "/cpu_[a-z]*\\.c$")

# Where gcc keeps each lane of each variable is of no use to a debugger and took it a minute a file in
# the sanitizer builds.
if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
  target_compile_options(cpu PRIVATE -fno-var-tracking)
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64)$")
  add_library(cpu_avx2 OBJECT ${isa_sources})
  target_compile_options(cpu_avx2 PRIVATE -mavx2 -mfma -mf16c)
  target_compile_definitions(cpu_avx2 PRIVATE ISA_AVX2)
  add_library(cpu_avx512 OBJECT ${isa_sources})
  target_compile_options(cpu_avx512 PRIVATE -mavx2 -mfma -mavx512f -mavx512bw -mavx512dq -mavx512vl
    -mprefer-vector-width=512)
  target_compile_definitions(cpu_avx512 PRIVATE ISA_AVX512)
  # integer products once more for AVX-512 with VNNI; they are chosen inside the table of AVX-512
  add_library(cpu_avx512vnni OBJECT ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/product_i8.c)
  target_compile_options(cpu_avx512vnni PRIVATE $<TARGET_PROPERTY:cpu_avx512,COMPILE_OPTIONS>
    -mavx512vnni)
  target_compile_definitions(cpu_avx512vnni PRIVATE ISA_AVX512 ISA_VNNI)
  # products of pairs of bf16 once more for AVX-512 with BF16, chosen in the same way
  add_library(cpu_avx512bf16 OBJECT ${CMAKE_CURRENT_SOURCE_DIR}/kernels/cpu/product.c)
  target_compile_options(cpu_avx512bf16 PRIVATE $<TARGET_PROPERTY:cpu_avx512,COMPILE_OPTIONS>
    -mavx512bf16)
  target_compile_definitions(cpu_avx512bf16 PRIVATE ISA_AVX512 ISA_BF16)
  if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    target_compile_options(cpu_avx2 PRIVATE -fno-var-tracking)
    target_compile_options(cpu_avx512 PRIVATE -fno-var-tracking) # and so for the next two
  endif()
  target_sources(cpu PRIVATE $<TARGET_OBJECTS:cpu_avx2> $<TARGET_OBJECTS:cpu_avx512>
    $<TARGET_OBJECTS:cpu_avx512vnni> $<TARGET_OBJECTS:cpu_avx512bf16>)
  target_compile_definitions(cpu PRIVATE CPU_HAS_X86_TABLES)
endif()
