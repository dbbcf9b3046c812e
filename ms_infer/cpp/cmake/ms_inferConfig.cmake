# find_package(ms_infer CONFIG) straight from the Python package (python -m ms_infer --cmake-dir): builds the library
# from the sources beside this file as a part of the consumer's own build, and installs it with the consumer's programs,
# which then find it in the folder beside theirs.
if(NOT TARGET ms_infer::ms_infer)
  add_subdirectory(${CMAKE_CURRENT_LIST_DIR}/.. ${CMAKE_BINARY_DIR}/ms_infer)
  include(GNUInstallDirs)
  cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_LIBDIR BASE_DIRECTORY ${CMAKE_INSTALL_FULL_BINDIR}
    OUTPUT_VARIABLE ms_infer_from_programs)
  if(APPLE)
    list(APPEND CMAKE_INSTALL_RPATH "@loader_path/${ms_infer_from_programs}")
  elseif(NOT WIN32)
    list(APPEND CMAKE_INSTALL_RPATH "$ORIGIN/${ms_infer_from_programs}")
  endif()
endif()
set(ms_infer_FOUND TRUE)
