# Stand-in for Slicer's UseSlicer.cmake: the macros that this extension calls.

include(CTest) # BUILD_TESTING

# Copy the listed files into the build tree and install them, as the macro of the same name does in Slicer.
# Like there: every listed file must exist, ".py" may be left out of a script's name, a path that leaves the folder
# ("../x.py") leaves the installed tree too, and WITH_SUBDIR keeps the name of the folder.
function(slicerMacroBuildScriptedModule)
  cmake_parse_arguments(module "WITH_GENERIC_TESTS;WITH_SUBDIR;VERBOSE" "NAME" "SCRIPTS;RESOURCES" ${ARGN})
  if(module_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule: unknown arguments ${module_UNPARSED_ARGUMENTS}")
  endif()
  if(NOT module_NAME OR NOT module_SCRIPTS)
    message(FATAL_ERROR "slicerMacroBuildScriptedModule needs NAME and SCRIPTS")
  endif()

  set(built "${CMAKE_BINARY_DIR}/${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
  set(installed_from "${built}/") # with the slash: what is in the folder; without: the folder itself
  if(module_WITH_SUBDIR)
    get_filename_component(folder "${CMAKE_CURRENT_SOURCE_DIR}" NAME)
    set(built "${built}/${folder}")
    set(installed_from "${built}")
  endif()

  set(copies)
  foreach(file IN LISTS module_SCRIPTS module_RESOURCES)
    set(source "${CMAKE_CURRENT_SOURCE_DIR}/${file}")
    if(NOT EXISTS "${source}")
      if(NOT EXISTS "${source}.py")
        message(FATAL_ERROR "slicerMacroBuildScriptedModule(${module_NAME}): '${file}' does not exist")
      endif()
      string(APPEND file ".py")
      string(APPEND source ".py")
    endif()
    add_custom_command(
      OUTPUT "${built}/${file}"
      DEPENDS "${source}"
      COMMAND ${CMAKE_COMMAND} -E copy "${source}" "${built}/${file}"
    )
    list(APPEND copies "${built}/${file}")
  endforeach()
  add_custom_target(Copy${module_NAME} ALL DEPENDS ${copies})

  install(DIRECTORY "${installed_from}" DESTINATION "${Slicer_QTSCRIPTEDMODULES_LIB_DIR}")
endfunction()

# Tests that need a running Slicer: here it is only checked that their scripts exist.
function(slicer_add_python_unittest)
  cmake_parse_arguments(test "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS" ${ARGN})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${test_SCRIPT}")
    message(FATAL_ERROR "slicer_add_python_unittest: '${test_SCRIPT}' does not exist")
  endif()
endfunction()

function(slicer_add_python_test)
  cmake_parse_arguments(test "" "SCRIPT;TESTNAME_PREFIX" "SLICER_ARGS;SCRIPT_ARGS" ${ARGN})
  if(NOT EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/${test_SCRIPT}")
    message(FATAL_ERROR "slicer_add_python_test: '${test_SCRIPT}' does not exist")
  endif()
endfunction()
