// Archives of numpy (.npz): zip files whose entries are stored or deflated, and stored when we write them.
#pragma once

#include <map>
#include <span>
#include <string>

#include "files/files.hpp"

namespace ms_infer {

// Content by name; MS_ERROR_CONFIG when the archive is damaged or unpacks to more than `limit` bytes.
std::map<std::string, Bytes> read_zip(std::span<const unsigned char> file, std::size_t limit);
Bytes zip_bytes(const std::map<std::string, Bytes>& entries);

}  // namespace ms_infer
