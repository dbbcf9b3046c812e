// SHA-256 (FIPS 180-4), so that no file of a bundle is used unless it is what the manifest says.
#pragma once

#include <span>
#include <string>
#include <string_view>

namespace ms_infer {

// Lower-case hexadecimal digest of the bytes.
std::string sha256(std::span<const unsigned char> bytes);
std::string sha256(std::string_view text);

}  // namespace ms_infer
