# What `cmake --install` puts where. As a part of somebody else's build that is the library alone.
install(TARGETS ms_infer EXPORT ms_inferTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(engine ${ms_infer_engines})
  install(TARGETS ms_infer_${engine} LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endforeach()
file(GLOB ms_infer_licence ${CMAKE_CURRENT_SOURCE_DIR}/../../LICENSE # in the repository, and beside an installed wheel
  ${CMAKE_CURRENT_SOURCE_DIR}/../../ms_infer-${PROJECT_VERSION}.dist-info/licenses/LICENSE)
install(FILES ${ms_infer_licence} DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/ms_infer)

if(NOT MS_INFER_INSTALL)
  return()
endif()

include(CMakePackageConfigHelpers)
set(ms_infer_package ${CMAKE_INSTALL_LIBDIR}/cmake/ms_infer)
install(DIRECTORY include/ms_infer DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT ms_inferTargets NAMESPACE ms_infer:: DESTINATION ${ms_infer_package})
configure_package_config_file(cmake/installed.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/ms_inferConfig.cmake
  INSTALL_DESTINATION ${ms_infer_package} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/ms_inferConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ms_inferConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/ms_inferConfigVersion.cmake
  DESTINATION ${ms_infer_package})

cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
  OUTPUT_VARIABLE ms_infer_prefix)
configure_file(cmake/ms_infer.pc.in ${CMAKE_CURRENT_BINARY_DIR}/ms_infer.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/ms_infer.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
