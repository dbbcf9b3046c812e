# Installs the library, builds separate projects against it, installs them too and runs them from there: C++ and pure C by
# find_package, C by pkg-config. Then configures one against the sources: of the Python package, and of the repository.
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE failed OUTPUT_VARIABLE out ERROR_VARIABLE out)
  if(failed)
    message(FATAL_ERROR "${ARGN}:\n${out}")
  endif()
  message(STATUS "${out}")
endfunction()

# Nothing that is installed may look for libraries in a build folder.
function(check_runpath file)
  execute_process(COMMAND readelf -d ${file} OUTPUT_VARIABLE dynamic COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCH "R(UN)?PATH[^\n]*" runpath "${dynamic}")
  message(STATUS "${file}: ${runpath}")
  if(NOT runpath MATCHES "ORIGIN|${WORK}/installed" OR runpath MATCHES "${BUILD}/ms_infer|${WORK}/build")
    message(FATAL_ERROR "${file} has the ${runpath}")
  endif()
endfunction()

# What somebody else's build got from us: no build type, no tests, no headers to install.
function(check_left_alone build)
  file(STRINGS ${build}/CMakeCache.txt cached REGEX "^(CMAKE_BUILD_TYPE|MS_INFER_BUILD_TESTS|MS_INFER_INSTALL):.*=.")
  list(FILTER cached EXCLUDE REGEX "=OFF$")
  if(cached OR EXISTS ${build}/ms_infer/tests)
    message(FATAL_ERROR "ms_infer changes the build of its consumer: ${cached}")
  endif()
endfunction()

file(REMOVE_RECURSE ${WORK})
set(common -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_C_COMPILER=${CC})
if(SANITIZE)
  list(APPEND common "-DCMAKE_EXE_LINKER_FLAGS=-fsanitize=address,undefined")
endif()
run(${CMAKE_COMMAND} --install ${BUILD} --prefix ${WORK}/installed)
file(GLOB libraries ${WORK}/installed/lib/libms_infer*.so) # with those of engines
foreach(library ${libraries})
  check_runpath(${library})
endforeach()
if(NOT EXISTS ${WORK}/installed/share/licenses/ms_infer/LICENSE)
  message(FATAL_ERROR "the licence is not installed")
endif()
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/build ${common}
  -DCMAKE_PREFIX_PATH=${WORK}/installed -DWANTED=${VERSION})
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${CMAKE_COMMAND} --install ${WORK}/build --prefix ${WORK}/programs)
foreach(name consumer_cpp consumer_c)
  check_runpath(${WORK}/programs/bin/${name})
  run(${WORK}/programs/bin/${name})
endforeach()

find_program(PKG_CONFIG pkg-config)
if(PKG_CONFIG AND NOT SANITIZE)
  execute_process(COMMAND ${CMAKE_COMMAND} -E env PKG_CONFIG_PATH=${WORK}/installed/lib/pkgconfig
    ${PKG_CONFIG} --cflags --libs "ms_infer = ${VERSION}" OUTPUT_VARIABLE flags COMMAND_ERROR_IS_FATAL ANY)
  separate_arguments(flags UNIX_COMMAND "${flags}")
  run(${CC} ${CMAKE_CURRENT_LIST_DIR}/consumer/main.c ${flags} -Wl,-rpath,${WORK}/installed/lib -o ${WORK}/by_pkg_config)
  run(${WORK}/by_pkg_config)
endif()

run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/from_package ${common}
  -Dms_infer_DIR=${SOURCE}/ms_infer/cpp/cmake -DWANTED=${VERSION} -DPython_EXECUTABLE=${PYTHON})
check_left_alone(${WORK}/from_package)
run(${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/from_sources ${common}
  -DSOURCES=${SOURCE} -DPython_EXECUTABLE=${PYTHON})
check_left_alone(${WORK}/from_sources)

execute_process(COMMAND ${CMAKE_COMMAND} -S ${CMAKE_CURRENT_LIST_DIR}/consumer -B ${WORK}/too_new ${common}
  -DCMAKE_PREFIX_PATH=${WORK}/installed -DWANTED=9.0 RESULT_VARIABLE failed OUTPUT_QUIET ERROR_QUIET)
if(NOT failed)
  message(FATAL_ERROR "find_package accepted version 9.0")
endif()
