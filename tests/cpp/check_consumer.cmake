# Installs the library and builds separate projects against it: C++ and pure C, by find_package. Then configures one
# against the sources of the Python package, which builds nothing but proves that the config there works.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(failed)
    message(FATAL_ERROR "${ARGN}:\n${out}")
  endif()
  message(STATUS "${out}")
endfunction()

file(REMOVE_RECURSE ${WORK})
set(common -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_C_COMPILER=${CC})
if(SANITIZE)
  list(APPEND common "-DCMAKE_EXE_LINKER_FLAGS=-fsanitize=address,undefined")
endif()
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/installed)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/build ${common}
  -DCMAKE_PREFIX_PATH=${WORK}/installed -DWANTED=${VERSION})
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer_cpp)
run(${WORK}/build/consumer_c)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/from_sources ${common}
  -Dms_infer_DIR=${SOURCE}/ms_infer/cpp/cmake -DWANTED=${VERSION} -DPython_EXECUTABLE=${PYTHON})

execute_process(COMMAND ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/too_new ${common}
  -DCMAKE_PREFIX_PATH=${WORK}/installed -DWANTED=9.0 RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
if(NOT failed)
  message(FATAL_ERROR "find_package accepted version 9.0")
endif()
