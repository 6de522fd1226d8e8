# liblatentrank_cuda.so, beside the program: built where there is an nvcc, and opened by the program when it
# is asked for a GPU.  The sanitizers are for the emulated one (tests/cuda_emulator).
find_program(NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
if(NOT NVCC OR SANITIZE OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64|aarch64")
  message(STATUS "CUDA backend: not built (no nvcc, or a build with sanitizers)")
  return()
endif()
get_filename_component(cuda_root ${NVCC} REALPATH)
get_filename_component(cuda_root ${cuda_root} DIRECTORY)
get_filename_component(cuda_root ${cuda_root} DIRECTORY)
file(GLOB cuda_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cu)
file(GLOB cuda_headers CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.h
  ${CMAKE_SOURCE_DIR}/kernels/cuda/*.cuh ${CMAKE_SOURCE_DIR}/kernels/*.h
  ${CMAKE_SOURCE_DIR}/kernels/core/*.h)
set(cuda_objects "")
foreach(source ${cuda_sources})
  get_filename_component(name ${source} NAME_WE)
  set(object ${CMAKE_BINARY_DIR}/cuda/${name}.o)
  add_custom_command(OUTPUT ${object}
    COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/cuda
    COMMAND ${NVCC} -std=c++17 -O3 -gencode arch=compute_90a,code=sm_90a -lineinfo
      -Xcompiler=-fPIC,-Wall,-Wextra,-Wno-unused-function -Werror all-warnings -I${CMAKE_SOURCE_DIR}
      -c ${source} -o ${object}
    DEPENDS ${source} ${cuda_headers} COMMENT "nvcc ${name}.cu" VERBATIM)
  list(APPEND cuda_objects ${object})
endforeach()
file(GLOB cuda_host CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/kernels/cuda/*.c)
# NCCL is opened at run time (cuda_comm.c), so that its header is all that the build needs.
find_path(NCCL_HEADERS nccl.h HINTS ENV NCCL_HOME ${cuda_root}
  PATH_SUFFIXES include targets/x86_64-linux/include)
if(NCCL_HEADERS)
  list(FILTER cuda_host EXCLUDE REGEX "/cuda_comm_absent\\.c$")
  find_library(NCCL_LIBRARY NAMES libnccl.so.2 HINTS ENV NCCL_HOME ${cuda_root}
    PATH_SUFFIXES lib lib64 targets/x86_64-linux/lib)
  message(STATUS "CUDA backend: NCCL by ${NCCL_HEADERS}/nccl.h")
else()
  list(FILTER cuda_host EXCLUDE REGEX "/cuda_comm\\.c$")
  message(STATUS "CUDA backend: without NCCL (no nccl.h; set NCCL_HOME): ranks sum through host memory")
endif()
add_library(latentrank_cuda MODULE ${cuda_host} ${cuda_objects})
target_include_directories(latentrank_cuda SYSTEM PRIVATE ${cuda_root}/include)
if(NCCL_HEADERS)
  target_include_directories(latentrank_cuda SYSTEM PRIVATE ${NCCL_HEADERS})
endif()
if(NCCL_LIBRARY) # where dlopen of the backend looks too
  get_filename_component(nccl_folder ${NCCL_LIBRARY} DIRECTORY)
  set_target_properties(latentrank_cuda PROPERTIES BUILD_RPATH ${nccl_folder})
endif()
target_link_directories(latentrank_cuda PRIVATE ${cuda_root}/lib64
  ${cuda_root}/targets/x86_64-linux/lib)
# The runtime is linked in; the driver is found when the library is opened.
target_link_libraries(latentrank_cuda PRIVATE cudart_static stdc++ rt Threads::Threads
  ${CMAKE_DL_LIBS})
set_target_properties(latentrank_cuda PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR})
