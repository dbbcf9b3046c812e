# The interface under sanitizers, in the ordinary check: small builds of the library's own sources with the stand-in engine,
# once for memory and undefined behaviour and once for threads. Without the engines' libraries, so nothing is suppressed.
if(MS_INFER_SANITIZE OR NOT CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang" OR APPLE)
  return()
endif()
set(library_folder ${PROJECT_SOURCE_DIR}/ms_infer/cpp)
get_target_property(base ms_infer_base SOURCES)
get_target_property(rest ms_infer_rest SOURCES)
list(TRANSFORM base PREPEND ${library_folder}/)
list(TRANSFORM rest PREPEND ${library_folder}/)

function(add_sanitized_library name sanitizers)
  add_library(${name} STATIC ${base} ${rest} ${library_folder}/src/engines/open.cpp stand_in.cpp)
  target_include_directories(${name} PUBLIC ${library_folder}/include ${library_folder}/src ${CMAKE_CURRENT_SOURCE_DIR})
  target_compile_features(${name} PUBLIC cxx_std_20)
  target_compile_definitions(${name} PUBLIC MS_INFER_VERSION="${PROJECT_VERSION}" MS_INFER_WITH_STAND_IN)
  target_compile_options(${name} PUBLIC -O1 -g1 -ffp-contract=off -fsanitize=${sanitizers} -fno-sanitize-recover=all)
  target_link_options(${name} PUBLIC -fsanitize=${sanitizers})
  target_link_libraries(${name} PUBLIC Threads::Threads ${CMAKE_DL_LIBS})
  set_target_properties(${name} PROPERTIES UNITY_BUILD ON) # the library itself is built file by file; these need not be
endfunction()

# A test's program under sanitizers; the rest are its arguments.
function(add_sanitized kind test)
  add_executable(${kind}_${test} test_${test}.cpp)
  target_link_libraries(${kind}_${test} PRIVATE ms_infer_${kind})
  add_checked(${kind}_${test} ${kind}_${test} ${ARGN})
endfunction()

add_sanitized_library(ms_infer_memory address,undefined)
add_sanitized_library(ms_infer_threads thread)
foreach(test loop model refusals)
  add_sanitized(memory ${test} ${bundles}/stand_in)
endforeach()
add_sanitized(memory hand ${PROJECT_SOURCE_DIR}/tests/golden/hand.txt)
add_sanitized(threads hand ${PROJECT_SOURCE_DIR}/tests/golden/hand.txt threads)
add_sanitized(threads loop ${bundles}/stand_in threads)
add_sanitized(threads model ${bundles}/stand_in independent log cancel)
set_tests_properties(memory_loop memory_model memory_refusals threads_loop threads_model PROPERTIES
  FIXTURES_REQUIRED stand_in_bundle)
