#include "words.hpp"

#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>

#include "files.hpp"

namespace ms_infer {

namespace {

constexpr std::size_t kMaxFile = std::size_t{1} << 30;

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

struct NpyHeader {
  std::string kind;  // "<f4"
  std::int64_t rows = 0, columns = 0;
  std::size_t data = 0;  // offset of the values
};

[[noreturn]] void refuse(const std::filesystem::path& path, const char* why) {
  fail(MS_ERROR_CONFIG, path.string(), " is no embedding: ", why, "; expected a .npy file of floats [tokens, dim]");
}

// The text between two marks of a header, "" where they are missing.
std::string_view between(std::string_view text, std::string_view open, std::string_view close) {
  const auto start = text.find(open);
  if (start == std::string_view::npos) return {};
  const auto rest = text.substr(start + open.size());
  const auto end = rest.find(close);
  return end == std::string_view::npos ? std::string_view{} : rest.substr(0, end);
}

std::int64_t take_number(std::string_view& text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == ',')) text.remove_prefix(1);
  std::int64_t value = -1;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc()) return -1;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return value;
}

NpyHeader read_header(const Bytes& file, const std::filesystem::path& path) {
  if (file.size() < 12 || std::memcmp(file.data(), "\x93NUMPY", 6) != 0) refuse(path, "it does not begin as one");
  const bool wide = file[6] >= 2;
  std::size_t length = file[8] | std::size_t{file[9]} << 8;
  if (wide) length |= std::size_t{file[10]} << 16 | std::size_t{file[11]} << 24;
  NpyHeader header;
  header.data = (wide ? 12 : 10) + length;
  if (header.data > file.size()) refuse(path, "it is cut off");
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + (wide ? 12 : 10), length);
  header.kind = between(text, "'descr': '", "'");
  auto shape = between(text, "'shape': (", ")");
  header.rows = take_number(shape), header.columns = take_number(shape);
  if (text.find("'fortran_order': False") == std::string_view::npos) refuse(path, "it is not in C order");
  if (header.rows < 0 || header.columns < 0 || take_number(shape) >= 0) refuse(path, "it does not have two axes");
  return header;
}

float half_to_float(std::uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const float sign = half & 0x8000 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(float(mantissa), -24);
  return sign * std::ldexp(float(mantissa | 1024), exponent - 25);
}

template <class Stored>
Stored value_at(const unsigned char* data, std::size_t place) {
  Stored value;
  std::memcpy(&value, data + place * sizeof value, sizeof value);
  return value;
}

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
  static_assert(std::endian::native == std::endian::little, "files hold little-endian numbers");
  const Bytes file = read_file(path, kMaxFile, MS_ERROR_CONFIG);
  const NpyHeader header = read_header(file, path);
  const std::size_t width = header.kind == "<f4" ? 4 : header.kind == "<f8" ? 8 : header.kind == "<f2" ? 2 : 0;
  if (width == 0) refuse(path, "its values are not float16, float32 or float64");
  require(header.rows <= text.tokens && header.columns == text.dim, MS_ERROR_CONFIG,
          "a prompt embedding must be [<= ", text.tokens, ", ", text.dim, "], ", path.string(), " holds [", header.rows,
          ", ", header.columns, "]");
  const auto count = static_cast<std::size_t>(header.rows * header.columns);
  if (header.data + count * width > file.size()) refuse(path, "it is cut off");
  const unsigned char* data = file.data() + header.data;
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i)
    values[i] = width == 4   ? value_at<float>(data, i)
                : width == 8 ? static_cast<float>(value_at<double>(data, i))
                             : half_to_float(value_at<std::uint16_t>(data, i));
  return padded_embedding(values, header.rows, text);
}

}  // namespace ms_infer
