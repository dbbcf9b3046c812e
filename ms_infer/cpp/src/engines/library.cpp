// The libraries of engines: found beside this library, or where the system looks.
#include <filesystem>
#include <map>
#include <mutex>

#include "engines/open.hpp"

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace ms_infer {

namespace {

using Entry = const EngineLibrary* (*)();

#if defined(_WIN32)
std::filesystem::path own_folder() {
  HMODULE self = nullptr;
  wchar_t path[32768] = L"";
  GetModuleHandleExW(GET_MODULE_HANDLE_EX_FLAG_FROM_ADDRESS | GET_MODULE_HANDLE_EX_FLAG_UNCHANGED_REFCOUNT,
                     reinterpret_cast<LPCWSTR>(&own_folder), &self);
  GetModuleFileNameW(self, path, 32768);
  return std::filesystem::path(path).parent_path();
}
std::string file_name(const std::string& name) { return "ms_infer_" + name + ".dll"; }
void* open_library(const std::string& path) { return LoadLibraryA(path.c_str()); }
std::string loader_reason() { return "error " + std::to_string(GetLastError()); }
void* find(void* library, const char* name) {
  return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
#else
std::filesystem::path own_folder() {
  Dl_info self{};
  if (!dladdr(reinterpret_cast<void*>(&own_folder), &self) || !self.dli_fname) return {};
  std::error_code ignored;
  return std::filesystem::absolute(self.dli_fname, ignored).parent_path();
}
std::string file_name(const std::string& name) { return std::string("libms_infer_").append(name).append(".so"); }
void* open_library(const std::string& path) { return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); }
std::string loader_reason() {
  const char* words = dlerror();
  return words ? words : "no reason is given";
}
void* find(void* library, const char* name) { return dlsym(library, name); }
#endif

const EngineLibrary& loaded(const std::string& name) {
  const std::string file = file_name(name);
  const auto beside = own_folder() / file;
  std::error_code ignored;
  const bool there = std::filesystem::exists(beside, ignored);
  void* library = open_library(there ? beside.string() : file);
  require(library != nullptr, MS_ERROR_MISSING, "the engine '", name, "' cannot be loaded: ", loader_reason(), "; put ",
          there ? "the libraries of the engine" : file.c_str(), " beside libms_infer or on the loader's path",
          there ? "" : ", or build ms_infer where the engine's library is found (MS_INFER_WITH_...)");
  const auto entry = reinterpret_cast<Entry>(find(library, "ms_infer_engine"));
  const EngineLibrary* engine = entry ? entry() : nullptr;
  require(engine && std::string_view(engine->version) == MS_INFER_VERSION, MS_ERROR_MISSING, file, " is of version ",
          engine ? engine->version : "?", ", libms_infer of version " MS_INFER_VERSION "; ship both from one build");
  return *engine;
}

}  // namespace

const EngineLibrary& load_engine_library(const std::string& name) {
  static std::mutex lock;
  static std::map<std::string, const EngineLibrary*> known;  // never unloaded: streams may outlive every other owner
  const std::lock_guard guard(lock);
  const EngineLibrary*& library = known[name];
  if (!library) library = &loaded(name);
  return *library;
}

}  // namespace ms_infer
