// Whole files in and out; a written file is complete or absent.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "error.hpp"

namespace ms_infer {

using Bytes = std::vector<unsigned char>;

// The content of a file of at most `limit` bytes; throws Error with `status`.
Bytes read_file(const std::filesystem::path& path, std::size_t limit, ms_status status);

// Writes beside the target and renames; throws MS_ERROR_CONFIG.
void write_file(const std::filesystem::path& path, const std::vector<std::string_view>& parts);

}  // namespace ms_infer
