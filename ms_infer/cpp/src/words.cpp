#include "words.hpp"

#include <algorithm>
#include <cmath>

#include "files/npy.hpp"

namespace ms_infer {

namespace {

constexpr std::size_t kMaxWords = std::size_t{1} << 30;

// What Python's str.lower() does to the characters that matter here: a word is made of ASCII letters and digits, and
// the only others that become one of them are the Kelvin sign (k) and the capital I with a dot (i, then a mark).
std::string lower_ascii(std::string_view text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text.substr(at, 3) == "\xE2\x84\xAA") {
      out += 'k', at += 2;
    } else if (text.substr(at, 2) == "\xC4\xB0") {
      out += "i\xCC\x87", at += 1;
    } else {
      const char c = text[at];
      out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  return out;
}

bool in_word(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

}  // namespace

Tokenizer::Tokenizer(const TextConfig& text) {
  std::int64_t row = 0;
  for (const auto& word : text.vocabulary) rows_[word] = ++row;
}

void Tokenizer::fill(std::string_view prompt, std::span<std::int64_t> rows) const {
  const std::string text = lower_ascii(prompt);
  std::size_t count = 0;
  for (std::size_t at = 0; at < text.size() && count < rows.size();) {
    if (!in_word(text[at])) {
      ++at;
      continue;
    }
    const auto start = at;
    while (at < text.size() && in_word(text[at])) ++at;
    const auto found = rows_.find(text.substr(start, at - start));
    rows[count++] = found == rows_.end() ? 0 : found->second;
  }
  for (; count < rows.size(); ++count) rows[count] = -1;
}

std::vector<float> padded_embedding(std::span<const float> values, std::int64_t tokens, const TextConfig& text) {
  const bool fits = tokens >= 0 && tokens <= text.tokens &&
                    values.size() == static_cast<std::size_t>(tokens) * static_cast<std::size_t>(text.dim);
  require(fits, MS_ERROR_CONFIG, "a prompt embedding must be [<= ", text.tokens, ", ", text.dim, "], got ", tokens,
          " tokens and ", values.size(), " values");
  for (const float value : values)
    require(std::isfinite(value), MS_ERROR_CONFIG, "the prompt embedding holds NaN or infinite values");
  std::vector<float> padded(static_cast<std::size_t>(text.tokens) * static_cast<std::size_t>(text.dim), 0.0f);
  std::copy(values.begin(), values.end(), padded.begin());
  return padded;
}

std::vector<float> read_embedding(const std::filesystem::path& path, const TextConfig& text) {
  const Bytes file = read_file(path, kMaxWords, MS_ERROR_CONFIG);
  try {
    const NpyArray array = read_npy(file);
    require(array.shape.size() == 2 && array.shape[0] <= text.tokens && array.shape[1] == text.dim, MS_ERROR_CONFIG,
            "it holds ", shape_text(array.shape), ", not [<= ", text.tokens, ", ", text.dim, "]");
    require(array.kind[1] == 'f', MS_ERROR_CONFIG, "its values are not float16, float32 or float64");
    const auto numbers = array.numbers();
    std::vector<float> values(numbers.size());
    std::transform(numbers.begin(), numbers.end(), values.begin(), [](double value) { return static_cast<float>(value); });
    return padded_embedding(values, array.shape[0], text);
  } catch (const Error& error) {
    fail(MS_ERROR_CONFIG, path.string(), " is no embedding: ", error.what(), "; expected a .npy file of floats [tokens, dim]");
  }
}

}  // namespace ms_infer
