// Prompts: words to rows of the word-level text encoder's table, and embeddings from files.
#pragma once

#include <filesystem>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "config.hpp"

namespace ms_infer {

// tokenize() of text.py: runs of a-z and 0-9 in lower case; 0 for an unknown word, -1 for padding.
class Tokenizer {
 public:
  explicit Tokenizer(const TextConfig& text);
  void fill(std::string_view prompt, std::span<std::int64_t> rows) const;

 private:
  std::unordered_map<std::string, std::int64_t> rows_;
};

// A ready embedding [tokens, dim] padded with zeros to [text.tokens, text.dim]; MS_ERROR_CONFIG when it does not fit.
std::vector<float> padded_embedding(std::span<const float> values, std::int64_t tokens, const TextConfig& text);

// The same from a .npy file (version 1 to 3, little-endian float16, float32 or float64, C order).
std::vector<float> read_embedding(const std::filesystem::path& path, const TextConfig& text);

}  // namespace ms_infer
