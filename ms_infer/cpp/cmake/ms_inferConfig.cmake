# find_package(ms_infer CONFIG) straight from the Python package (python -m ms_infer --cmake-dir): builds the library
# from the sources beside this file as a part of the consumer's own build.
if(NOT TARGET ms_infer::ms_infer)
  add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/.. ${CMAKE_BINARY_DIR}/ms_infer EXCLUDE_FROM_ALL)
endif()
set(ms_infer_FOUND TRUE)
