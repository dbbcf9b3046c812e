#include "files/files.hpp"

#include <atomic>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>

namespace ms_infer {

namespace {

std::string reason() { return std::strerror(errno); }

std::filesystem::path unfinished_path(const std::filesystem::path& path) {
  static std::atomic<unsigned> count{0};
  const auto name = "." + path.filename().string() + "." + std::to_string(++count) + ".unfinished";
  return path.parent_path() / name;
}

}  // namespace

Bytes read_file(const std::filesystem::path& path, std::size_t limit, ms_status status) {
  std::error_code code;
  const auto size = std::filesystem::file_size(path, code);
  require(!code, status, "cannot read ", path.string(), ": ", code.message());
  require(size <= limit, status, path.string(), " has ", size, " bytes; at most ", limit, " were expected");
  Bytes content(size);
  std::ifstream file(path, std::ios::binary);
  file.read(reinterpret_cast<char*>(content.data()), static_cast<std::streamsize>(size));
  require(file.good() || size == 0, status, "cannot read ", path.string(), ": ", reason());
  return content;
}

void write_file(const std::filesystem::path& path, const std::vector<std::string_view>& parts) {
  const auto unfinished = unfinished_path(path);
  std::error_code code;
  {
    std::ofstream file(unfinished, std::ios::binary | std::ios::trunc);
    for (const auto part : parts) file.write(part.data(), static_cast<std::streamsize>(part.size()));
    file.flush();
    if (!file.good()) {
      const auto words = reason();
      std::filesystem::remove(unfinished, code);
      fail(MS_ERROR_CONFIG, "cannot write ", path.string(), ": ", words, "; give another folder or free disk space");
    }
  }
  std::filesystem::rename(unfinished, path, code);
  if (code) {
    const auto words = code.message();
    std::filesystem::remove(unfinished, code);
    fail(MS_ERROR_CONFIG, "cannot write ", path.string(), ": ", words);
  }
}

}  // namespace ms_infer
