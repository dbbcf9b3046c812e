# Finds the engines. Sets ms_infer_engine_sources, ms_infer_engine_libraries and ms_infer_engine_definitions.
set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL ON) # their targets are used by every folder
set(ms_infer_engine_sources "")
set(ms_infer_engine_libraries "")
set(ms_infer_engine_definitions "")

# An engine that was asked for but not found is an error; with AUTO it is left out, with a line that says so.
function(ms_infer_absent engine wanted hint)
  if(wanted STREQUAL "AUTO")
    message(STATUS "ms_infer: no ${engine} (${hint})")
  else()
    message(FATAL_ERROR "ms_infer: ${engine} was asked for but not found: ${hint}")
  endif()
endfunction()

if(MS_INFER_WITH_OPENVINO)
  find_package(Python QUIET COMPONENTS Interpreter)
  if(NOT OpenVINO_DIR AND Python_EXECUTABLE)
    execute_process(
      COMMAND ${Python_EXECUTABLE} -c "import importlib.util as u; print(u.find_spec('openvino').submodule_search_locations[0] + '/cmake')"
      OUTPUT_VARIABLE ms_infer_openvino OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE ms_infer_failed)
    if(NOT ms_infer_failed)
      set(OpenVINO_DIR ${ms_infer_openvino} CACHE PATH "Folder of OpenVINOConfig.cmake" FORCE)
    endif()
  endif()
  find_package(OpenVINO QUIET COMPONENTS Runtime)
  if(OpenVINO_FOUND)
    message(STATUS "ms_infer: OpenVINO ${OpenVINO_VERSION} in ${OpenVINO_DIR}")
    list(APPEND ms_infer_engine_sources src/engines/openvino.cpp)
    list(APPEND ms_infer_engine_libraries openvino::runtime)
    list(APPEND ms_infer_engine_definitions MS_INFER_WITH_OPENVINO)
  else()
    ms_infer_absent(OpenVINO ${MS_INFER_WITH_OPENVINO}
      "pip install openvino and give -DPython_EXECUTABLE, or give -DOpenVINO_DIR")
  endif()
endif()
